"""Probabilistic self-supervised learning by scoring-rule minimisation.

The library behind the pipeline: it knows tensors, files and numbers, and nothing of DVC, Prefect or
``params.yaml``. Importing it costs nothing; import the module you need (``from prosmin import scoring``).
"""

__version__ = "0.1.0"
