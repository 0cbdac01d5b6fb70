"""Time alternatives in turns, so that other load on the machine affects all of them."""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any


def in_turns(rounds: int, **work: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds per alternative and round. Every second round runs in reverse order.

    work: the alternatives by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for place in range(rounds):
        for name in list(work) if place % 2 == 0 else reversed(list(work)):
            begun = time.perf_counter()
            work[name]()
            seconds[name].append(time.perf_counter() - begun)
            print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def figures(seconds: dict[str, list[float]], above: str, below: str) -> dict[str, Any]:
    """All seconds with three digits, and the median over rounds of the ratio of two alternatives.

    above, below: names of the numerator and of the denominator.
    """
    ratios = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
    kept = {name: [float(f"{value:.3g}") for value in values] for name, values in seconds.items()}
    return {"seconds": kept, "ratio": round(statistics.median(ratios), 2)}
