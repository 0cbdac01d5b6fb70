"""How often the 95 % intervals hold the truth: ``python -m benchmarks.trust.coverage``.

The benchmark draws test sets with a known truth, most of them near the ends of the range. Per
metric it counts the test sets whose interval holds the truth, for the percentile bootstrap, for BCa
(Efron 1987) and for ``prosmin.metrics.intervals``, and gives the mean width. ``above`` and
``below``: shares of intervals that lie wholly on that side of the truth. The truth of an ECE is its
mean for the same number of images. Test sets with an undefined metric (an mCE whose reference makes
no error) are left out and counted. Every case is written to benchmarks/results/coverage.json at its
end.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from benchmarks.record import keep
from prosmin.metrics import (
    calibration,
    classification,
    corruption_error,
    detection,
    intervals,
    paired,
    selective,
)
from prosmin.metrics.intervals import Metric
from prosmin.metrics.prediction import rank_correlation

RESAMPLES = 400
METHODS = ("percentile", "bca", "ours")
MANY = 300_000  # images behind a truth that no formula gives
METRICS = ("accuracy", "nll", "brier", "aurc", "ece", "ece_adaptive", "ece_classwise")
Interval = tuple[float, float]  # low, high
Rng = np.random.Generator


class Case(NamedTuple):
    """A metric with a known truth on n images. draw: the intervals of one test set by method."""

    metric: str
    n: int
    truth: float
    draw: Callable[[np.random.Generator], dict[str, Interval]]


def bca(metric: Metric, n: int, value: float, drawn: np.ndarray) -> Interval:
    """The BCa interval, with the acceleration of a jackknife of at most 100 groups."""
    groups = np.arange(n) % min(n, 100)
    left = np.asarray(metric((groups != np.unique(groups)[:, None]).astype(float)))
    left = left[np.isfinite(left)]
    apart = left.mean() - left
    spread = (apart**2).sum() ** 1.5
    bend = (apart**3).sum() / (6 * spread) if spread > 0 else 0.0
    share = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    shift = ndtri(np.clip(share, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))
    ends = shift + ndtri([0.025, 0.975])
    low, high = np.quantile(drawn, np.clip(ndtr(shift + ends / (1 - bend * ends)), 0, 1))
    return float(low), float(high)


def percentiles(drawn: np.ndarray) -> Interval:
    """The interval of the percentile bootstrap."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def of(metric: Metric, n: int, seed: int) -> dict[str, Interval]:
    """The intervals of a metric on one test set, by method; none where the metric is undefined."""
    drawn = intervals.on_resamples({"": metric}, n, RESAMPLES, seed)[""]
    value, whole = float(metric(None)), drawn[np.isfinite(drawn)]
    if not (np.isfinite(value) and len(whole)):
        return {}
    return {
        "percentile": percentiles(whole),
        "bca": bca(metric, n, value, whole),
        # ``with_intervals`` computes the same from the same resamples.
        "ours": intervals.from_resamples(value, drawn, n, intervals.scale_of(metric)),
    }


# --- test sets -----------------------------------------------------------------------------------


def hits_of(right: np.ndarray) -> Metric:
    """The accuracy of n answers. right: bool [n]."""
    return partial(
        classification.accuracy, np.stack([right, ~right], 1) * 1.0, np.zeros(len(right), int)
    )


def answers(
    rng: np.random.Generator, n: int, sharpness: float, heat: float
) -> tuple[np.ndarray, np.ndarray]:
    """Logits [n, 10] and labels [n] of a classifier, calibrated at heat 1, over-confident above."""
    logits = classification.log_softmax(rng.normal(size=(n, 10)) * sharpness)
    return logits * heat, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def bound(name: str, logits: np.ndarray, labels: np.ndarray) -> Metric:
    """The metric of this name with its data."""
    if name in ("accuracy", "nll"):
        return partial(getattr(classification, name), logits, labels)
    home = {"brier": classification, "aurc": selective}.get(name, calibration)
    return partial(getattr(home, name), classification.softmax(logits), labels)


def classifiers() -> Iterator[Case]:
    """Classification metrics, from an accuracy of 0.8 to one near 1."""
    rng = np.random.default_rng(0)
    shapes = [(6.0, 1.0), (25.0, 1.0), (25.0, 1.5), (120.0, 1.0), (600.0, 1.0), (1500.0, 1.0)]
    for sharpness, heat in shapes:
        many = answers(rng, MANY, sharpness, heat)
        accuracy = round(float(classification.accuracy(*many)), 4)
        for n in (100, 360, 2000) if sharpness == 120.0 else (360,):
            small = [answers(rng, n, sharpness, heat) for _ in range(1000)]
            for name in METRICS:
                truth = bound(name, *many)(None)
                if name.startswith("ece"):
                    truth = float(np.mean([bound(name, *one)(None) for one in small]))

                def draw(
                    rng: Rng,
                    name: str = name,
                    n: int = n,
                    sharpness: float = sharpness,
                    heat: float = heat,
                ) -> dict[str, Interval]:
                    metric = bound(name, *answers(rng, n, sharpness, heat))
                    return of(metric, n, int(rng.integers(2**31)))

                over = ", over-confident" if heat > 1 else ""
                yield Case(f"{name}, accuracy {accuracy}{over}", n, float(truth), draw)


def proportions() -> Iterator[Case]:
    """Accuracies near 1."""
    for share in (0.9, 0.988, 0.995, 0.999):

        def draw(rng: Rng, share: float = share) -> dict[str, Interval]:
            right = rng.random(360) < share
            return of(hits_of(right), 360, int(rng.integers(2**31)))

        yield Case("accuracy", 360, share, draw)


def detectors() -> Iterator[Case]:
    """Scores N(0, 1) and N(gap, spread), or both of Student's t of 4 degrees of freedom."""
    shapes = [(360, 360, gap, 1.0, False) for gap in (1, 3, 4, 4.5, 5.5)]
    shapes += [(60, 60, 4, 1.0, False), (360, 2000, 4.5, 1.0, False), (2000, 360, 4.5, 1.0, False)]
    shapes += [(360, 360, 6, 2.0, False), (360, 360, 3, 0.3, False)]
    shapes += [(360, 360, gap, 1.0, True) for gap in (5, 9)]
    for n, m, gap, spread, heavy in shapes:

        def scores(
            rng: Rng,
            n: int = n,
            m: int = m,
            gap: float = gap,
            spread: float = spread,
            heavy: bool = heavy,
        ) -> tuple[np.ndarray, np.ndarray]:
            noise: Any = partial(rng.standard_t, 4) if heavy else rng.standard_normal
            return noise(n), noise(m) * spread + gap

        def draw(rng: Rng, scores: Callable[..., Any] = scores) -> dict[str, Interval]:
            pair, seed = scores(rng), int(rng.integers(2**31))
            drawn = detection.auroc_resamples(*pair, resamples=RESAMPLES, seed=seed)
            ours = detection.auroc_interval(*pair, resamples=RESAMPLES, seed=seed)
            return {"percentile": percentiles(drawn), "ours": ours}

        truth = detection.auroc(*scores(np.random.default_rng(1), MANY, MANY))
        yield Case(f"auroc, {n} and {m} images{', heavy tails' * heavy}", n + m, truth, draw)


def correlations() -> Iterator[Case]:
    """Rank correlations of Gaussian pairs."""
    for rho in (0.0, 0.5, 0.9, 0.999):

        def draw(rng: Rng, rho: float = rho) -> dict[str, Interval]:
            one = rng.normal(size=360)
            two = rho * one + np.sqrt(1 - rho**2) * rng.normal(size=360)
            return of(partial(rank_correlation, one, two), 360, int(rng.integers(2**31)))

        yield Case("sigma_error_correlation", 360, float(6 / np.pi * np.arcsin(rho / 2)), draw)


def corruption_errors() -> Iterator[Case]:
    """Corruption errors of two models on images of varying difficulty."""
    for skilled, reference in ((2, 1), (6, 4), (8, 6)):

        def models(
            rng: Rng, n: int, skilled: int = skilled, reference: int = reference
        ) -> list[corruption_error.Measured]:
            types, severities = np.linspace(0, 1, 5)[:, None, None], np.linspace(0, 1, 3)[:, None]
            hard = rng.normal(size=n) * 1.5 + types + severities
            chances = [1 / (1 + np.exp(hard - skill)) for skill in (skilled, reference)]
            return [
                corruption_error.Measured(
                    rng.random((5, 3, n)) < right, rng.random(n) < right[0, 0]
                )
                for right in chances
            ]

        many = models(np.random.default_rng(2), MANY)
        for name, count in (("mce_unnormalised", 1), ("mce", 2)):
            metric = getattr(corruption_error, name)

            def draw(
                rng: Rng,
                metric: Callable[..., Any] = metric,
                count: int = count,
                models: Callable[..., Any] = models,
            ) -> dict[str, Interval]:
                return of(partial(metric, *models(rng, 360)[:count]), 360, int(rng.integers(2**31)))

            yield Case(name, 360, float(metric(*many[:count])), draw)


def differences() -> Iterator[Case]:
    """Differences of the accuracies of two models whose errors are in part on the same images."""
    pairs = [(0.9, 0.93, 0.5), (0.98, 0.99, 0.5), (0.995, 0.998, 0.5), (0.999, 0.999, 0.9)]
    for one, two, shared in pairs:

        def draw(
            rng: Rng, one: float = one, two: float = two, shared: float = shared
        ) -> dict[str, Interval]:
            first = rng.random(360)
            second = np.where(rng.random(360) < shared, first, rng.random(360))
            hits, seed = [first < one, second < two], int(rng.integers(2**31))
            found = paired.difference(hits_of(hits[0]), hits_of(hits[1]), 360, RESAMPLES, seed)
            gain, blocks = hits[1] * 1.0 - hits[0], intervals.resamples(360, RESAMPLES, seed)
            drawn = np.concatenate([counts @ gain / 360 for counts in blocks])
            return {"percentile": percentiles(drawn), "ours": (found.low, found.high)}

        yield Case(f"difference of accuracies {one} and {two}", 360, two - one, draw)


def measure(case: Case, repetitions: int) -> dict[str, Any]:
    """The row of a case: coverage and width of its intervals by method."""
    rng = np.random.default_rng(3)
    found: dict[str, list[Interval]] = {}
    for _ in range(repetitions):
        for method, interval in case.draw(rng).items():
            found.setdefault(method, []).append(interval)
    row: dict[str, Any] = {"metric": case.metric, "n": case.n, "truth": round(case.truth, 6)}
    row["undefined"] = repetitions - len(found["ours"])
    for method, drawn in found.items():
        low, high = np.array(drawn).T
        above, below = low > case.truth, high < case.truth
        row[method] = {
            "covers": round(float(1 - (above | below).mean()), 4),
            "above": round(float(above.mean()), 4),
            "below": round(float(below.mean()), 4),
            "width": float(f"{(high - low).mean():.4g}"),
            "no_width": round(float((high == low).mean()), 4),
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trust.coverage", description="Coverage of the 95 % intervals."
    )
    parser.add_argument("--repetitions", type=int, default=400, help="test sets per case")
    given = parser.parse_args()
    groups = (proportions, detectors, correlations, corruption_errors, differences, classifiers)
    figures: dict[str, Any] = {
        "repetitions": given.repetitions,
        "resamples": RESAMPLES,
        "cases": [],
    }
    for case in (case for group in groups for case in group()):
        row = measure(case, given.repetitions)
        figures["cases"].append(row)
        keep("coverage", ["numpy", "scipy"], figures)
        shares = (f"{name} {row[name]['covers']:.3f}" for name in METHODS if name in row)
        print(f"{case.metric} ({case.truth:.5f}), n {case.n}: {', '.join(shares)}", flush=True)


if __name__ == "__main__":
    main()
