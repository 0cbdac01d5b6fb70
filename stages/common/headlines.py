"""The headline numbers of ``metrics/``: the terminal and the model card show them, the report has all there are."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from prosmin.common.files import Section, read_metrics
from stages.common.directions import higher_is_better
from stages.params.load import Params

SIMILARITY = "corruption: feature similarity"
DETECTORS = ("mahalanobis", "knn", "sigma")


class Row(NamedTuple):
    """One metric, named as in docs/evaluation.md: of the encoder with its 95 % interval, and of the untrained floor."""

    label: str
    value: float
    low: float | None
    high: float | None
    random: float | None
    higher_is_better: bool
    over: str = "test images"  # what its interval covers

    def cells(self, between: str = " - ") -> tuple[str, str, str]:
        """Value, interval and floor as text, empty where there is none. between: the ends of the interval."""
        interval = (
            ""
            if self.low is None or self.high is None
            else f"{self.low:.3f}{between}{self.high:.3f}"
        )
        return f"{self.value:.3f}", interval, "" if self.random is None else f"{self.random:.3f}"


def rows(
    params: Params, folder: str | Path = "metrics", without: Collection[str] = ()
) -> list[Row]:
    """The rows whose metrics exist, for the datasets that ``params`` names (older files may lie beside them).

    without: paths, such as ``metrics/knn.json``, that are of other settings (``stages.common.current``).
    """
    found = []
    for label, file, *sections, name in _wanted(params):
        if f"metrics/{file}" in without:
            continue
        path = Path(folder) / file
        content = read_metrics(path) if path.is_file() else Section()
        trained, random = (
            _section(content, encoder, *sections) for encoder in ("trained", "random")
        )
        if label == SIMILARITY and "mce_unnormalised" in trained:
            continue  # the error says more
        if trained.get(name) is not None:
            ends = (_number(trained, f"{name}_{end}") for end in ("low", "high"))
            over = Row._field_defaults["over"]
            if draws := trained.get("draws"):
                over = f"{draws} draws of the labels and {over}"
            floor = _number(random, name)
            found.append(
                Row(label, trained.number(name), *ends, floor, higher_is_better(name), over)
            )
    return found


def _wanted(params: Params) -> Iterator[tuple[str, ...]]:
    """(label, file, key inside the encoder's metrics ...)."""
    yield "linear probe: accuracy", "linear.json", "accuracy"
    yield "linear probe: ece (lower is better)", "linear.json", "ece"
    yield "linear probe: ece after temperature scaling", "linear.json", "ece_calibrated"
    yield "k-NN: accuracy", "knn.json", "accuracy"
    if params.lowshot.per_class:
        most = max(params.lowshot.per_class)
        yield f"{most} labels a class: accuracy", "lowshot.json", f"per_class_{most}", "accuracy"
    for name in params.finetune.datasets:
        yield f"fine-tuned on {name}: accuracy", f"finetune/{name}.json", "accuracy"
    for name, distance in params.ood.sets.items():
        for detector in DETECTORS:
            yield (
                f"OOD, {name} ({distance}), {detector}: auroc",
                f"ood/{name}.json",
                detector,
                "auroc",
            )
    yield "corruption: mean error (lower is better)", "corrupt.json", "mce_unnormalised"
    yield SIMILARITY, "corrupt.json", "feature_similarity"
    for name in params.shift.sets:
        yield f"shift to {name}: accuracy", f"shift/{name}.json", "accuracy"
    for name in params.transfer.targets:
        yield f"transfer to {name}: accuracy", f"transfer/{name}.json", "accuracy"


def _section(content: Section, *keys: str) -> Section:
    for key in keys:
        content = content.section(key)
    return content


def _number(content: Section, key: str) -> float | None:
    """None where there is none."""
    return None if content.get(key) is None else content.number(key)
