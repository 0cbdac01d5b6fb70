"""Metrics and their intervals, in NumPy.

More than 12 entries, because each module is one family of metrics.
"""
