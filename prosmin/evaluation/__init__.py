"""Evaluations of a frozen encoder.

More than 12 entries, because each module is one evaluation, or one part of an evaluation.
"""
