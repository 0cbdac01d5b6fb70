"""The claims of a study, and the metrics that decide them.

A claim has measures. A measure is one number per run: a metric, or the mean over all metrics that a
pattern names. A measure that no run has is left out, and the page says so.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from prosmin.common.encoders import TRAINED
from prosmin.common.errors import UserError
from prosmin.evaluation.ood_scores import DETECTORS
from prosmin.metrics.catalogue import Entry, find

# metrics/<file>.json of a run, by its path.
Files = Mapping[str, Mapping[str, Any]]
DISTANCE = "distance"  # the key of a file about an OOD set that says near or far


class Measure(BaseModel):
    """One number per run.

    metrics: file and key, such as ``metrics/ood/*.json:trained.knn.auroc``; ``*`` stands for any
        part of a name without a dot or slash, and ``a|b`` in the key for either name.
    of: the evaluation, in the label before the name of the metric.
    over: of several metrics their mean, a measure per metric, or the best of their keys (mean over
        files). The best is generous: it is read off the test numbers.
    own: the metrics of the method under test, where it declares its score beforehand and the
        best counts for the others alone.
    distance: of the OOD set, where only one kind counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: str
    of: str
    over: Literal["mean", "each", "best"] = "mean"
    own: str | None = None
    distance: Literal["near", "far"] | None = None

    @field_validator("metrics", "own")
    @classmethod
    def _is_metric(cls, metrics: str | None) -> str | None:
        if metrics is None:
            return None
        path, colon, key = metrics.partition(".json:")
        if not colon or not path.startswith("metrics/") or not key.startswith(f"{TRAINED}."):
            raise ValueError(
                f"must be a file and a key in it, such as metrics/linear.json:{TRAINED}.accuracy"
            )
        entry = find(key.rpartition(".")[2].replace("*", "1"))
        if entry and entry.higher_is_better is None:  # an unknown metric may come from a new stage
            raise ValueError("must end with a metric of which it is known which way is better")
        return metrics


class Claim(BaseModel):
    """title: on the page. measures: all of them decide it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    measures: list[Measure] = Field(min_length=1)


def _ood(distance: Literal["near", "far"]) -> list[Measure]:
    """The best detector without labels, two of these by themselves, and one with labels."""
    label_free = [name for name, detector in DETECTORS.items() if detector.label_free]
    best = Measure(
        metrics=f"metrics/ood/*.json:{TRAINED}.{'|'.join(label_free)}.auroc",
        of="best label-free detector",
        over="best",
        distance=distance,
    )
    return [best] + [
        Measure(
            metrics=f"metrics/ood/*.json:{TRAINED}.{name}.auroc",
            of=DETECTORS[name].label,
            distance=distance,
        )
        for name in ("knn", "ssd", "mahalanobis_normalised")
    ]


CLAIMS = {
    "accuracy": Claim(
        title="In-distribution accuracy",
        measures=[
            Measure(metrics=f"metrics/linear.json:{TRAINED}.accuracy", of="linear probe"),
            Measure(metrics=f"metrics/knn.json:{TRAINED}.accuracy", of="k-NN"),
        ],
    ),
    "calibration": Claim(
        title="Calibration",
        measures=[
            Measure(metrics=f"metrics/linear.json:{TRAINED}.ece", of="linear probe"),
            Measure(metrics=f"metrics/linear.json:{TRAINED}.nll_calibrated", of="linear probe"),
        ],
    ),
    "near_ood": Claim(title="Near OOD", measures=_ood("near")),
    "far_ood": Claim(title="Far OOD", measures=_ood("far")),
    "corruption_error": Claim(
        title="Error under corruption",
        measures=[
            Measure(metrics=f"metrics/corrupt.json:{TRAINED}.mce_unnormalised", of="corrupted")
        ],
    ),
    "corruption_calibration": Claim(
        title="Calibration under corruption",
        measures=[
            Measure(
                metrics=f"metrics/corrupt.json:{TRAINED}.ece_severity_*",
                of="corrupted",
                over="each",
            )
        ],
    ),
    "lowshot": Claim(
        title="Few labels",
        measures=[
            Measure(metrics=f"metrics/lowshot.json:{TRAINED}.*.accuracy", of="mean of the budgets")
        ],
    ),
    "transfer": Claim(
        title="Transfer",
        measures=[
            Measure(
                metrics=f"metrics/transfer/*.json:{TRAINED}.accuracy", of="mean of the datasets"
            )
        ],
    ),
    "uncertainty": Claim(
        title="Uncertainty",
        measures=[
            Measure(
                metrics=f"metrics/uncertainty/*.json:{TRAINED}.scores.*.{metric}",
                of="score chosen on val, against the best label-free score",
                over="best",
                own=f"metrics/uncertainty/*.json:{TRAINED}.{metric}",
            )
            for metric in ("r_auroc", "human_correlation")
        ],
    ),
}


@dataclass(frozen=True)
class Quantity:
    """A measure as the runs have it.

    claim: its name. keys: the (path, key) of its metrics. own: those of the method under test.
    best: whether the best key counts, not the mean.
    """

    claim: str
    label: str
    entry: Entry
    keys: tuple[tuple[str, str], ...]
    own: tuple[tuple[str, str], ...]
    best: bool = False

    def of(self, files: Files, encoder: str = TRAINED, tested: bool = False) -> float | None:
        """The number of one run; None where the run lacks it.

        tested: whether the run is of the method under test.
        """
        by_key: dict[str, list[float | None]] = {}
        for path, key in self.own if tested else self.keys:
            by_key.setdefault(key if self.best else "", []).append(
                number_at(files.get(path, {}), key, encoder)
            )
        means = [mean for values in by_key.values() if (mean := _mean(values)) is not None]
        if not means:
            return None
        return max(means) if self.entry.higher_is_better else min(means)


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a value is missing."""
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if len(numbers) == len(values) else None


def quantities(
    claims: Mapping[str, Claim], runs: Sequence[Files]
) -> tuple[list[Quantity], list[str]]:
    """The quantities of all claims that some run has, and a line for each measure left out."""
    present: list[Quantity] = []
    left_out = []
    for name, claim in claims.items():
        for measure in claim.measures:
            keys = _matching(measure, measure.metrics, runs)
            own = _matching(measure, measure.own, runs) if measure.own else keys
            if not keys or not own:
                where = f", {measure.distance} sets" if measure.distance else ""
                absent = measure.own if keys else measure.metrics
                left_out.append(f"{claim.title}: no run has {absent}{where}.")
            elif measure.over == "each":
                present += [_quantity(name, measure, [pair], [pair]) for pair in keys]
            else:
                present.append(_quantity(name, measure, keys, own))
    return present, left_out


def _quantity(
    claim: str,
    measure: Measure,
    keys: Sequence[tuple[str, str]],
    own: Sequence[tuple[str, str]],
) -> Quantity:
    metric = keys[0][1].rpartition(".")[2]
    entry = find(metric)
    if entry is None or entry.higher_is_better is None:
        raise UserError(
            f"claims.{claim}: {metric} is no metric of prosmin.metrics.catalogue with a direction"
        )
    label = f"{measure.of}: {entry.label}"
    return Quantity(claim, label, entry, tuple(keys), tuple(own), measure.over == "best")


def _matching(measure: Measure, metrics: str, runs: Sequence[Files]) -> list[tuple[str, str]]:
    """The (path, key) of all metrics of all runs that fit, sorted."""
    wanted, _, pattern = metrics.partition(":")
    return sorted(
        {
            (path, key)
            for files in runs
            for path, content in files.items()
            if fnmatch.fnmatchcase(path, wanted) and path.count("/") == wanted.count("/")
            if measure.distance in (None, content.get(DISTANCE))
            for key in _keys(content, pattern.split("."))
        }
    )


def _keys(content: Any, pattern: Sequence[str]) -> Iterator[str]:
    """The dotted keys of numbers that fit; ends of intervals do not."""
    step, *rest = pattern
    for name, value in content.items() if isinstance(content, Mapping) else ():
        end_of_interval = name.endswith(("_low", "_high")) and name != step
        fits = any(fnmatch.fnmatchcase(name, part) for part in step.split("|"))
        if not fits or end_of_interval:
            continue
        if rest:
            yield from (f"{name}.{key}" for key in _keys(value, rest))
        elif isinstance(value, int | float):
            yield name


def number_at(content: Any, key: str, encoder: str = TRAINED) -> float | None:
    """The number at a dotted key, of the trained or of the untrained encoder."""
    first, *steps = key.split(".")
    for step in [encoder if first == TRAINED else first, *steps]:
        content = content.get(step) if isinstance(content, Mapping) else None
    return float(content) if isinstance(content, int | float) else None
