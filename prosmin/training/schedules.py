"""Schedules as pure functions of the global step, so that a resumed run needs no schedule state."""

import math


def cosine(start: float, end: float, step: int, steps: int) -> float:
    """Half a cosine from ``start`` at step 0 to ``end`` at step ``steps - 1``; ``end`` beyond."""
    share = min(step / max(steps - 1, 1), 1.0)
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))


def warmup_cosine(peak: float, step: int, steps: int, warmup: int) -> float:
    """From ``peak / warmup`` to ``peak`` over ``warmup`` steps, then half a cosine to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(peak, 0.0, step - warmup, steps - warmup)
