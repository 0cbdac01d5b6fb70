"""Two ways to do the same, timed in turns, so that what else the machine does touches both."""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any


def in_turns(rounds: int, **work: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds that each took in each round; every other round goes backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for place in range(rounds):
        for name in list(work) if place % 2 == 0 else reversed(list(work)):
            begun = time.perf_counter()
            work[name]()
            seconds[name].append(time.perf_counter() - begun)
            print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def figures(seconds: dict[str, list[float]], above: str, below: str) -> dict[str, Any]:
    """Those of two of them to three digits, and the median over rounds of above / below."""
    ratios = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
    kept = {name: [float(f"{each:.3g}") for each in values] for name, values in seconds.items()}
    return {"seconds": kept, "ratio": round(statistics.median(ratios), 2)}
