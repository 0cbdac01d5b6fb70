"""Diagnostics of images without augmentation during training, and warnings of collapse."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prosmin.common.seeds import sample_rows
from prosmin.data.dataset import Split
from prosmin.objectives.base import Objective
from prosmin.training.watch import diagnostics

WATCHED = 1024  # largest number of images behind each observation
BANK = 4096  # largest number of images among which the online k-NN looks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Monitor:
    """Images that are observed during training.

    images, labels: uint8 [N, C, S, S], and their classes [N] where all are known.
    bank, bank_labels: images and classes for the online k-NN.
    """

    images: Tensor
    labels: Tensor | None = None
    bank: Tensor | None = None
    bank_labels: Tensor | None = None

    @classmethod
    def of(cls, splits: Mapping[str, Split], seed: int) -> "Monitor":
        """A draw of images from ``val``, or from the first split where there is no ``val``.

        With labels in ``val`` and ``train``, a draw of ``train`` becomes the bank.
        """
        watched = splits.get("val", next(iter(splits.values())))
        images, labels = _draw(watched, WATCHED, seed, "watched")
        bank = splits.get("train")
        if "val" not in splits or bank is None:
            return cls(images)
        if (bank.labels < 0).any() or (watched.labels < 0).any():
            return cls(images)
        return cls(images, labels, *_draw(bank, BANK, seed, "bank of the monitor"))


def _draw(split: Split, most: int, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Draw images and labels; where all are drawn, the split lends its own memory."""
    if len(split) <= most:
        return split.images, split.labels
    rows = sample_rows(len(split), most, seed, purpose)
    return split.images[rows], split.labels[rows]


@torch.no_grad()
def observe(model: Objective, monitor: Monitor, batch_size: int = 512) -> dict[str, float]:
    """Diagnostics by name; ``prosmin.training.watch.diagnostics`` defines them.

    Those of sigma are for objectives that predict a distribution, the accuracies are for a monitor
    with labels.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device

    def outputs(images: Tensor) -> tuple[Tensor, Tensor | None]:
        batches = torch.split(images, batch_size)
        parts = [model.describe(batch.to(device).float() / 255.0) for batch in batches]
        log_sigma = [part.log_sigma for part in parts if part.log_sigma is not None]
        features = torch.cat([part.features for part in parts])
        return features, torch.cat(log_sigma) if log_sigma else None

    features, log_sigma = outputs(monitor.images)
    row = {"rankme": diagnostics.rankme(features), "feature_std": diagnostics.feature_std(features)}
    if log_sigma is not None and model.sigma_range is not None:
        row |= diagnostics.sigma_summary(log_sigma, *model.sigma_range)
    if monitor.labels is not None and monitor.bank is not None and monitor.bank_labels is not None:
        bank = outputs(monitor.bank)[0]
        known = bank, monitor.bank_labels.to(device), features, monitor.labels.to(device)
        row["knn_accuracy"] = diagnostics.knn_accuracy(*known)
        row["probe_accuracy"] = diagnostics.probe_accuracy(*known)
    model.train(was_training)
    return row


def warn_of_collapse(row: dict[str, float], step: int) -> None:
    """Warn of signs of collapse in the log, with the likely cause. Step 0 is not judged."""
    if step == 0:
        return
    if row["rankme"] < 2 or row["feature_std"] < 0.05:
        log.warning(
            "step %d: the features collapse (RankMe %.2f, feature std %.3f); raise "
            "pretrain.batch_size or, with prosmin, normalise the targets "
            "(pretrain.objective.normalise: whiten), with another target network slow it down "
            "(pretrain.target.momentum)",
            step,
            row["rankme"],
            row["feature_std"],
        )
    if row.get("sigma_clamped", 0.0) > 0.5:
        log.warning(
            "step %d: %.0f %% of the predicted sigma stand at the clamp; widen "
            "pretrain.objective.log_sigma or check that pretrain.objective.lambda is near 1",
            step,
            100 * row["sigma_clamped"],
        )
