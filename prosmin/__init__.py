"""Probabilistic self-supervised learning by scoring-rule minimisation.

The library behind the pipeline. It knows tensors, files and numbers, and nothing of DVC, Prefect or
``params.yaml``. Importing it costs nothing: import the modules you need (``prosmin.scoring``).
"""

__version__ = "0.1.0"
