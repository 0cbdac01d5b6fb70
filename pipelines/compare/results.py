"""The results of a revision, read from DVC's cache without running a stage."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.compare.revisions import stale
from prosmin.common import files
from prosmin.common.encoders import TRAINED
from prosmin.common.errors import UserError
from prosmin.evaluation import knn
from prosmin.evaluation.linear_probe import Probe
from prosmin.evaluation.ood_scores import DETECTORS
from prosmin.metrics import classification, selective
from prosmin.metrics.catalogue import Entry, entry_of
from prosmin.metrics.classification import Metric
from stages.common import layout
from stages.common.current import belongs
from stages.common.features import read_features
from stages.common.headlines import detection_name, mean_name, several
from stages.params.load import Params, load

WORKSPACE = "workspace"


class Row(NamedTuple):
    """One metric. of: the evaluation; metric: its name in ``prosmin.metrics.catalogue``."""

    of: str
    metric: str

    @property
    def entry(self) -> Entry:
        """The definition of the metric."""
        return entry_of(self.metric)

    @property
    def label(self) -> str:
        """Evaluation and metric."""
        return f"{self.of}: {self.entry.label}"

    @property
    def better(self) -> str:
        """The direction in words."""
        return f"{self.entry.better} is better"


@dataclass
class Results:
    """The results of one revision.

    digests: checksums of the test images [N].
    samples: metrics of the test images.
    scores: (OOD set, scores of ID images, scores of OOD images) by set and detector.
    means: of each mean over OOD sets the rows of ``scores`` that it is made of.
    others: checksums of the test images of each OOD set.
    """

    name: str
    params: Params
    folder: Path
    digests: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    samples: dict[Row, Metric] = field(default_factory=dict)
    scores: dict[Row, tuple[str, np.ndarray, np.ndarray]] = field(default_factory=dict)
    means: dict[Row, list[Row]] = field(default_factory=dict)
    others: dict[str, np.ndarray] = field(default_factory=dict)


@contextmanager
def opened(revision: str) -> Iterator[Any]:
    """Yield DVC's file system of a revision.

    Raises ``UserError`` where the revision does not exist, or a file of it cannot be read.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        yield DVCFileSystem(rev=None if revision == WORKSPACE else revision)
    except (DvcException, SCMError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{revision} cannot be read ({reason}); `dvc exp show` lists what there is"
        ) from None


def fetch(revision: str, folder: Path) -> Results:
    """Copy the results of ``revision`` to ``folder`` and read them.

    Raises ``UserError`` where the revision does not exist or has no results.
    """
    with opened(revision) as source:
        source.get_file("params.yaml", str(folder / "params.yaml"))
        params = load(folder / "params.yaml")
        wanted = [layout.probe(TRAINED), layout.metrics("knn")]
        wanted += [layout.features(name, TRAINED) for name in (params.dataset, *params.ood.sets)]
        wanted += [layout.ood_scores(name) for name in params.ood.sets]
        wanted += [layout.RELIABILITY, layout.LOSS, layout.DIAGNOSTICS]
        other = stale(source, folder)
        for path in map(str, wanted):
            if belongs(path, other) and source.exists(path):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                source.get_file(path, str(folder / path))
    try:
        return read(Results(revision, params, folder))
    except UserError as error:
        raise UserError(f"{revision}: {str(error).replace(f'{folder}/', '')}") from None


def read(run: Results) -> Results:
    """Fill in all metrics for which the revision has files."""
    embedded = run.folder / layout.features(run.params.dataset, TRAINED)
    if not embedded.is_file():
        raise UserError(
            f"{run.name} has no results of its own in DVC's cache; run it, or `dvc pull`"
        )
    arrays = read_features(embedded, run.params.dataset).arrays
    run.digests = arrays["test.digest"]
    run.samples |= _of_probe(run.folder / layout.probe(TRAINED), arrays)
    run.samples |= _of_knn(run.folder / layout.metrics("knn"), arrays)
    detectors = [name for name, entry in DETECTORS.items() if entry.drawn]
    for name, distance in run.params.ood.sets.items():
        path = run.folder / layout.ood_scores(name)
        if not path.is_file():
            continue
        scores = files.read_arrays(path)
        outside = run.folder / layout.features(name, TRAINED)
        run.others[name] = read_features(outside, name).digests("test")
        for detector in detectors:
            keys = [f"{TRAINED}.{detector}.{kind}" for kind in ("id", "ood")]
            if keys[0] in scores:
                scores.check({key: (files.NUMBER, letter) for key, letter in zip(keys, "io")})
                row = Row(detection_name(detector, name, distance), "auroc")
                run.scores[row] = (name, scores[keys[0]], scores[keys[1]])
    for distance, names in several(run.params.ood.sets).items():
        for detector in detectors:
            members = [Row(detection_name(detector, name, distance), "auroc") for name in names]
            if all(row in run.scores for row in members):
                mean = Row(mean_name(detector, len(names), distance), "auroc")
                run.means[mean] = members
    return run


def _of_probe(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[Row, Metric]:
    """The metrics of the linear probe saved at ``path``, none where it does not exist.

    arrays: the features of the dataset by name.
    """
    if not path.is_file():
        return {}
    fitted, labels = Probe.load(path), arrays["test.labels"]
    logits = fitted.logits(arrays["test.features"])
    scaled = logits / fitted.temperature
    probabilities = classification.softmax(scaled)
    metrics: dict[str, Metric] = {
        "accuracy": partial(classification.accuracy, logits, labels),
        "nll_calibrated": partial(classification.nll, scaled, labels),
        "brier_calibrated": partial(classification.brier, probabilities, labels),
        "aurc_calibrated": partial(selective.aurc, probabilities, labels),
    }
    return {Row("linear probe", name): metric for name, metric in metrics.items()}


def _of_knn(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[Row, Metric]:
    """The accuracy of k-NN with the k and temperature in the metrics file at ``path``."""
    if not path.is_file():
        return {}
    chosen, labels = files.read_metrics(path).section(TRAINED), arrays["test.labels"]
    k, temperature = int(chosen.number("k")), chosen.number("temperature")
    splits = [split for split in ("train", "val") if f"{split}.features" in arrays]
    bank, known = (
        np.concatenate([arrays[f"{split}.{kind}"] for split in splits])
        for kind in ("features", "labels")
    )
    similarity, index = knn.neighbours(bank, arrays["test.features"], k)
    classes = int(max(known.max(), labels.max())) + 1
    votes = knn.vote(similarity, known[index], temperature, classes)
    return {Row("k-NN", "accuracy"): partial(classification.accuracy, votes, labels)}
