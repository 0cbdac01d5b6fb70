"""The features that ``stages.embed`` saved, as evaluations read them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prosmin.common.errors import UserError
from prosmin.common.files import read_arrays
from prosmin.evaluation.label_subsets import Labelled, stratified_holdout
from stages.common import layout
from stages.common.command import Unlabelled

FITTED = ("train", "val")  # splits that OOD detectors are fitted to
HELD_OUT = 0.2  # share of train to select on where the dataset has no val split


def require_labels(labels: np.ndarray, dataset: str, split: str) -> None:
    """Raise ``Unlabelled`` where no image has a label (-1), ``UserError`` where some have none.

    labels: int64 [N].
    """
    missing = int((labels < 0).sum())
    if missing == len(labels):
        raise Unlabelled(f"the {split} split of dataset {dataset!r} has no labels")
    if missing:
        raise UserError(
            f"{missing} of {len(labels)} images in the {split} split of dataset {dataset!r} "
            "have no label; its evaluation needs one for each, or none at all"
        )


@dataclass(frozen=True)
class Features:
    """The embedded splits of one dataset. arrays: those of the file, by ``<split>.<field>``."""

    dataset: str
    arrays: dict[str, np.ndarray]

    @property
    def splits(self) -> tuple[str, ...]:
        present = {name.split(".")[0] for name in self.arrays}
        return tuple(split for split in ("train", "val", "test") if split in present)

    def split(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return features float32 ``[N, F]``, labels int64 ``[N]``, log sigma float32 ``[N]``.

        A label is -1 for an image without one; log sigma is None where the network predicts none.
        Raises ``UserError`` where there is no such split.
        """
        if name not in self.splits:
            raise UserError(
                f"dataset {self.dataset!r} has no {name} split; it has {', '.join(self.splits)}"
            )
        features, labels = (self.arrays[f"{name}.{field}"] for field in ("features", "labels"))
        return features, labels, self.arrays.get(f"{name}.log_sigma")

    def digests(self, name: str) -> np.ndarray:
        """Checksums uint64 ``[N]`` of the pixels of one split, as the network sees them."""
        self.split(name)
        return self.arrays[f"{name}.digest"]

    def doubts(self, name: str) -> dict[str, np.ndarray]:
        """Label-free scores of one split, float32 ``[N]``, high where the network is unsure.

        Their names are those of ``prosmin.objectives.doubts``. An objective may have none.
        """
        self.split(name)
        start = f"{name}.{layout.DOUBT}"
        return {
            field.removeprefix(start): values
            for field, values in self.arrays.items()
            if field.startswith(start)
        }

    def labelled(self, name: str) -> Labelled:
        """features ``[N, F]`` and labels ``[N]`` of one split. Raises as ``require_labels``."""
        features, labels, _ = self.split(name)
        require_labels(labels, self.dataset, name)
        return features, labels


def load_features(dataset: str, encoder: str) -> Features:
    """Read the features of a dataset. Raises ``UserError`` where there are none.

    encoder: one of ``prosmin.common.encoders.ENCODERS``.
    """
    path = layout.features(dataset, encoder)
    try:
        return read_features(path, dataset)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; run `dvc repro` or `python -m stages.embed {dataset}`"
        ) from None


def read_features(path: Path, dataset: str) -> Features:
    """Read the features of a dataset from a file.

    Raises ``UserError`` where the file does not hold what ``stages.embed`` writes.
    """
    arrays = read_arrays(path, mapped=True)
    features = Features(dataset, arrays)
    wanted = {}
    for count, split in zip("LMN", features.splits):
        wanted[f"{split}.features"] = ("float32", f"{count}F")
        wanted[f"{split}.labels"], wanted[f"{split}.digest"] = ("int64", count), ("uint64", count)
        for field in arrays:
            if field == f"{split}.log_sigma" or field.startswith(f"{split}.{layout.DOUBT}"):
                wanted[field] = ("float32", count)
    arrays.check(wanted)
    return features


def place_of_val(features: Features, seed: int) -> tuple[str, np.ndarray]:
    """The split that val is a part of, and its rows there: val itself, or a fifth of train.

    Raises ``Unlabelled`` where train has to be divided and has no labels.
    """
    if "val" in features.splits:
        return "val", np.arange(len(features.labelled("val")[1]))
    _, held = stratified_holdout(features.labelled("train")[1], HELD_OUT, seed)
    return "train", held


def load_labelled(dataset: str, encoder: str, seed: int) -> tuple[Labelled, Labelled, Labelled]:
    """Read features and labels of train, val (else a stratified fifth of train) and test.

    Raises ``Unlabelled`` where a split has no labels.
    """
    features = load_features(dataset, encoder)
    train, test = features.labelled("train"), features.labelled("test")
    if "val" in features.splits:
        return train, features.labelled("val"), test
    kept, held = stratified_holdout(train[1], HELD_OUT, seed)
    return (train[0][kept], train[1][kept]), (train[0][held], train[1][held]), test
