"""Methods compared on the whole evaluation, over seeds, with equal tuning effort."""
