"""Weights before the first step.

``external``: of encoders trained elsewhere. ``initial``: those that training starts from.
``untrained``: batch statistics of the network whose numbers stand beside those of the trained one.
"""
