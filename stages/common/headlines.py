"""The headline numbers of ``metrics/`` for the terminal, the model card and ``summary.json``."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prosmin.common.encoders import ENCODERS
from prosmin.common.files import Section, read_metrics
from prosmin.evaluation.ood_scores import DETECTORS
from prosmin.metrics import intervals
from prosmin.metrics.catalogue import Entry, entry_of
from stages.common import layout
from stages.params.load import Params

TEST_IMAGES = "test images"
DIGITS = 4  # of a number in the summary


class Row(NamedTuple):
    """One metric of the trained encoder, with its 95 % interval, and of the untrained one.

    of: the evaluation, such as ``linear probe``.
    metric: name in ``prosmin.metrics.catalogue``.
    over: what the interval covers.
    """

    of: str
    metric: str
    value: float
    low: float | None
    high: float | None
    untrained: float | None
    over: str = TEST_IMAGES

    @property
    def entry(self) -> Entry:
        """The definition of the metric."""
        return entry_of(self.metric)

    @property
    def label(self) -> str:
        """Evaluation and metric, and the direction where lower is better."""
        note = " (lower is better)" if self.entry.better == "lower" else ""
        return f"{self.of}: {self.entry.label}{note}"

    def cells(self, between: str = " - ") -> tuple[str, str, str]:
        """Value, interval and value of the untrained encoder as text; empty where missing.

        between: text between the ends of the interval.
        """
        interval = (
            ""
            if self.low is None or self.high is None
            else f"{self.low:.3f}{between}{self.high:.3f}"
        )
        untrained = "" if self.untrained is None else f"{self.untrained:.3f}"
        return f"{self.value:.3f}", interval, untrained


class _Source(NamedTuple):
    """Where a headline number stands: keys below the encoder's section of a metrics file.

    others: files whose numbers under these keys are averaged with the number of ``path``.
    column: name of the number in ``summary``, which takes the mean over sources of one name; empty
        for a number that is not there.
    last: whether the column stands behind those that most readers look for.
    """

    of: str
    path: Path
    keys: tuple[str, ...]
    others: tuple[Path, ...] = ()
    column: str = ""
    last: bool = False


def rows(
    params: Params, folder: str | Path = layout.METRICS, without: Collection[str] = ()
) -> list[Row]:
    """The headline numbers that exist, for the datasets that ``params`` names.

    folder: the metrics of the run. Files of other datasets in it are ignored.
    without: paths to leave out, such as ``metrics/knn.json``, because they belong to other settings
        (``stages.common.current``).
    """
    headlines = []
    for source in _sources(params):
        members = [
            None if str(path) in without else _read(source, path, Path(folder))
            for path in (source.path, *source.others)
        ]
        present = [row for row in members if row is not None]
        if len(present) == len(members):
            headlines.append(mean_of(source.of, present) if source.others else present[0])
    return headlines


def summary(
    params: Params, folder: str | Path = layout.METRICS, without: Collection[str] = ()
) -> dict[str, float]:
    """The headline numbers of the trained encoder by short names, which are the same for all data.

    A number over several datasets is the mean over those that have it. An accuracy has the name of
    its stage.

    folder, without: as for ``rows``. A column with a file to leave out is left out.
    """
    columns: dict[str, list[_Source]] = {}
    for source in sorted(_sources(params), key=lambda source: source.last):
        if source.column:
            columns.setdefault(source.column, []).append(source)
    numbers = {}
    for column, sources in columns.items():
        members = [_read(source, source.path, Path(folder)) for source in sources]
        present = [row for row in members if row is not None]
        if present and not any(str(source.path) in without for source in sources):
            numbers[column] = round(mean_of(column, present).value, DIGITS)
    return numbers


def _read(source: _Source, path: Path, folder: Path) -> Row | None:
    """The number of a source in one file; None where it is missing."""
    path = folder / path.relative_to(layout.METRICS)
    content = read_metrics(path) if path.is_file() else Section()
    *sections, metric = source.keys
    trained, untrained = (_section(content, encoder, *sections) for encoder in ENCODERS)
    if metric == "feature_similarity" and "mce_unnormalised" in trained:
        return None  # the error says more
    if trained.get(metric) is None:
        return None
    low, high = (_number(trained, f"{metric}_{end}") for end in ("low", "high"))
    draws = trained.get("draws")
    over = f"{draws} draws of the labels and {TEST_IMAGES}" if draws else TEST_IMAGES
    value, floor = trained.number(metric), _number(untrained, metric)
    return Row(source.of, metric, value, low, high, floor, over)


def mean_of(of: str, members: Sequence[Row]) -> Row:
    """The mean of one metric over evaluations, with the interval of ``intervals.mean_of``."""
    mean = intervals.mean_of([(row.value, row.low, row.high) for row in members])
    floors = [row.untrained for row in members]
    untrained = None if None in floors else sum(floors) / len(floors)
    return Row(of, members[0].metric, *mean, untrained, members[0].over)


def detection_name(detector: str, name: str, distance: str) -> str:
    """The name of an evaluation: a detector on the OOD set ``name``."""
    return f"OOD, {name} ({distance}), {detector}"


def mean_name(detector: str, count: int, distance: str) -> str:
    """The name of an evaluation: a detector, mean over all ``count`` OOD sets of a distance."""
    return f"OOD, mean of {count} {distance} sets, {detector}"


def several(sets: Mapping[str, str]) -> dict[str, list[str]]:
    """The OOD sets of each distance of which there are several, near ones first.

    sets: the distance of each set, ``near`` or ``far``, as in ``ood.sets``.
    """
    groups = {
        distance: [name for name in sets if sets[name] == distance] for distance in ("near", "far")
    }
    return {distance: names for distance, names in groups.items() if len(names) > 1}


def _sources(params: Params) -> Iterator[_Source]:
    """Every headline number, in the order of the tables."""
    linear = layout.metrics("linear")
    for metric, column in (("accuracy", "linear"), ("ece", "ece")):
        yield _Source("linear probe", linear, (metric,), column=column)
    keys = ("ece_calibrated",)
    yield _Source("linear probe", linear, keys, column="ece_calibrated", last=True)
    yield _Source("k-NN", layout.metrics("knn"), ("accuracy",), column="knn")
    if params.lowshot.per_class:
        most = max(params.lowshot.per_class)
        keys = (f"per_class_{most}", "accuracy")
        of, path = f"{most} labels per class", layout.metrics("lowshot")
        yield _Source(of, path, keys, column="lowshot")
    for name in params.finetune.datasets:
        of, path = f"fine-tuned on {name}", layout.metrics("finetune", name)
        yield _Source(of, path, ("accuracy",), column="finetune")
    detectors = [name for name, entry in DETECTORS.items() if entry.headline]
    for name, distance in params.ood.sets.items():
        for detector in detectors:
            of, path = detection_name(detector, name, distance), layout.metrics("ood", name)
            column, last = f"{distance}_{detector}", detector != detectors[0]
            yield _Source(of, path, (detector, "auroc"), column=column, last=last)
    for distance, names in several(params.ood.sets).items():
        path, *others = (layout.metrics("ood", name) for name in names)
        for detector in detectors:
            of = mean_name(detector, len(names), distance)
            yield _Source(of, path, (detector, "auroc"), tuple(others))
    for metric, column in (
        ("mce_unnormalised", "corrupt_error"),
        ("feature_similarity", "corrupt_similarity"),
    ):
        yield _Source("corruption", layout.metrics("corrupt"), (metric,), column=column)
    for stage, names in (("shift", params.shift.sets), ("transfer", params.transfer.targets)):
        for name in names:
            of, path = f"{stage} to {name}", layout.metrics(stage, name)
            yield _Source(of, path, ("accuracy",), column=stage)
    for name in params.uncertainty.datasets:
        for metric in ("r_auroc", "human_correlation"):
            of, path = f"uncertainty, {name}", layout.metrics("uncertainty", name)
            yield _Source(of, path, (metric,), column=metric)


def _section(content: Section, *keys: str) -> Section:
    for key in keys:
        content = content.section(key)
    return content


def _number(content: Section, key: str) -> float | None:
    """None where it is missing."""
    return None if content.get(key) is None else content.number(key)
