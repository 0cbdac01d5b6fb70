"""Schedules as pure functions of the global step, so that a resumed run needs no schedule state."""

import math


def cosine(start: float, end: float, step: int, steps: int, begin: int = 0) -> float:
    """Half a cosine from ``start`` at step ``begin`` to ``end`` at step ``steps - 1``.

    It is ``start`` before and ``end`` beyond.
    """
    share = min(max(step - begin, 0) / max(steps - begin - 1, 1), 1.0)
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))


def warmup_cosine(peak: float, step: int, steps: int, warmup: int, begin: int = 0) -> float:
    """From ``peak / warmup`` to ``peak`` over ``warmup`` steps, then half a cosine to 0.

    begin: the step, if it comes after the warm-up, up to which the rate stays at ``peak``.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(peak, 0.0, step, steps, max(begin, warmup))
