"""What a training step minimises: ProSMIN and baselines, on the same encoder, views and schedule.

A new objective is a dataclass in ``settings``, a class of ``base.Objective`` that takes it, and a
line in ``registry``.
"""
