"""Runs side by side, with intervals of their differences."""
