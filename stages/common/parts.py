"""The splits of a dataset as an encoder sees them: features, labels and scores of the networks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prosmin.common import files
from prosmin.common.compute.stacked import Stack
from prosmin.common.errors import listed
from prosmin.data import dataset
from prosmin.evaluation.label_subsets import Labelled, stratified_holdout
from stages.common import layout
from stages.common.features import HELD_OUT, Features, load_features, require_labels

Doubts = Mapping[str, np.ndarray]  # scores from the networks, [N] each


@dataclass(frozen=True)
class Part:
    """Images as an encoder sees them.

    dataset, split: their names, for messages.
    features: [N, F].
    labels: int64 [N], -1 for none.
    doubts: of the images.
    """

    dataset: str
    split: str
    features: np.ndarray
    labels: np.ndarray
    doubts: Doubts

    def rows(self, chosen: np.ndarray) -> "Part":
        """The chosen images alone."""
        doubts = {name: values[chosen] for name, values in self.doubts.items()}
        return Part(self.dataset, self.split, self.features[chosen], self.labels[chosen], doubts)

    def labelled(self) -> Labelled:
        """Features and labels. Raises as ``stages.common.features.require_labels``."""
        require_labels(self.labels, self.dataset, self.split)
        return self.features, self.labels


def load(name: str, encoder: str, size: int | None = None) -> Features:
    """The features of a dataset.

    Raises ``UserError`` where they are not of its images or not of ``size`` dimensions.
    """
    features, manifest = load_features(name, encoder), dataset.read_manifest(f"data/{name}")
    for split in features.splits:
        shape = features.split(split)[0].shape
        fits = manifest["splits"].get(split, {}).get("count"), size or shape[1]
        if shape != fits:
            why = f"its features of {split} are {list(shape)}, where {list(fits)} are needed"
            raise files.damaged(layout.features(name, encoder), why)
    return features


def check_doubts(name: str, encoder: str, parts: Mapping[str, Part], given: Doubts) -> None:
    """Raise ``UserError`` where the saved scores are not those that the networks give."""
    for split, part in parts.items():
        if part.doubts.keys() != given.keys():
            saved, needed = (listed(sorted(names)) or "none" for names in (part.doubts, given))
            why = f"its scores of {split} are {saved}, where {needed} are needed"
            raise files.damaged(layout.features(name, encoder), why)


def splits_of(features: Features, seed: int) -> dict[str, Part]:
    """The splits of a dataset; without val a stratified fifth of a labelled train takes its place.

    Raises ``UserError`` without a test split.
    """
    features.split("test")
    parts = {}
    for split in features.splits:
        images, labels, log_sigma = features.split(split)
        doubts = with_sigma(features.doubts(split), log_sigma)
        parts[split] = Part(features.dataset, split, images, labels, doubts)
    if "train" in parts and "val" not in parts and (parts["train"].labels >= 0).all():
        train = parts["train"]
        kept, held = stratified_holdout(train.labels, HELD_OUT, seed)
        parts |= {"train": train.rows(kept), "val": train.rows(held)}
    return parts


def with_sigma(doubts: Doubts, log_sigma: np.ndarray | None) -> Doubts:
    """All scores from the networks; log_sigma: [N], None where no distribution is predicted."""
    return doubts if log_sigma is None else {**doubts, "log_sigma": log_sigma}


def to_fit(features: Features, seed: int) -> tuple[Stack, np.ndarray]:
    """Features of the images that scores are fitted to, [B, F], and their rows in train, [B].

    Raises ``UserError`` without a train split.
    """
    images, labels, _ = features.split("train")
    if "val" in features.splits or (labels < 0).any():
        return Stack((images,)), np.arange(len(labels))
    rows, _ = stratified_holdout(labels, HELD_OUT, seed)
    return Stack((images,), rows), rows
