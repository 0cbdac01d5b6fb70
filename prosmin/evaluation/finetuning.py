"""Full fine-tuning: an encoder and a linear classifier on it, trained together on labels.

Letters in shapes: N images, C channels, S pixels a side, K classes.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosmin.common.seeds import epoch_order, seed_networks
from prosmin.data.dataset import Split
from prosmin.data.feed import Feed, Resident
from prosmin.evaluation.label_subsets import count_classes, few_labels
from prosmin.evaluation.linear_probe import ReliabilityRow, classification_metrics, reliability_rows
from prosmin.metrics import calibration, classification, conformal
from prosmin.models import light_imports
from prosmin.models.networks import Encoder, decay_groups
from prosmin.training.schedules import warmup_cosine
from prosmin.views.settings import ViewSettings

WARMUP = 0.1  # share of the steps
_BATCH, _READ = 512, 2048  # images without augmentation: per batch, and read at a time

log = logging.getLogger(__name__)


class Plain(Protocol):
    """Images without augmentation."""

    def batches(self, rows: np.ndarray, size: int) -> Iterator[Tensor]:
        """Yield the images of ``rows`` in batches of ``size``, uint8 [B, C, S, S]."""


@dataclass(frozen=True)
class LabelledImages:
    """Images with a class each: some rows of a larger set, in memory or on the disk.

    feed: random views of the images of the set, for training.
    plain: the images of the set without augmentation.
    rows: int64 [N], of the set.
    labels: int64 [N].
    """

    feed: Feed
    plain: Plain
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, places: np.ndarray) -> "LabelledImages":
        """Return the images at some places, 0 to N - 1."""
        return replace(self, rows=self.rows[places], labels=self.labels[places])

    def joined(self, other: "LabelledImages") -> "LabelledImages":
        """Return these images and then those of ``other``, which belong to the same set."""
        rows = np.concatenate([self.rows, other.rows])
        return replace(self, rows=rows, labels=np.concatenate([self.labels, other.labels]))


def in_memory(split: Split) -> LabelledImages:
    """The images of a split that is loaded; nothing is copied."""
    resident = Resident(split.images)
    return LabelledImages(resident, resident, np.arange(len(split)), split.labels.numpy())


@dataclass(frozen=True)
class FinetuneSettings:
    """Settings of the training by AdamW.

    The learning rate is warmed up and then falls to 0 by a cosine.

    views: how the random view of an image is drawn; a step sees one view per image.
    epochs: passes over the images.
    batch_size: images per step.
    steps: at least so many, because a handful of labels has few steps per epoch.
    weight_decay: of weights; biases and normalisation have none.
    clip_norm: largest norm of the gradient.
    """

    views: ViewSettings
    epochs: int
    batch_size: int
    steps: int = 0
    weight_decay: float = 0.05
    clip_norm: float = 3.0


class Classifier(nn.Module):
    """An encoder and a linear layer: images [B, C, S, S] in [0, 1] -> logits [B, K].

    The linear layer starts at zero, so the first predictions are uniform, and the first steps move
    the layer and not yet the encoder.
    """

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.num_features, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(images))
        return logits

    @torch.inference_mode()
    def logits(self, images: LabelledImages) -> np.ndarray:
        """Compute float64 logits [N, K] of N images without augmentation, in evaluation mode."""
        self.eval()
        device = self.head.weight.device
        parts = [
            self(batch.to(device).float() / 255.0).double().cpu()
            for read in images.plain.batches(images.rows, _READ)
            for batch in torch.split(read, _BATCH)
        ]
        return torch.cat(parts).numpy()


@light_imports.without_compile()
def finetune(
    encoder: Encoder,
    images: LabelledImages,
    classes: int,
    settings: FinetuneSettings,
    lr: float,
    seed: int,
) -> Classifier:
    """Train a classifier that starts from a copy of ``encoder``, on the device of the encoder.

    classes: number of classes; the labels are in 0..classes-1.
    lr: peak of the learning rate.
    The order of the images and their views are functions of (seed, epoch, step).
    """
    model = Classifier(copy.deepcopy(encoder), classes).requires_grad_(True)
    device = next(encoder.parameters()).device
    model.to(device).train()
    optimiser = torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=lr)
    images.feed.to(device)
    rows, truth = torch.from_numpy(images.rows), torch.from_numpy(images.labels).to(device)
    batch = min(settings.batch_size, len(images))
    per_epoch = len(images) // batch
    epochs = max(settings.epochs, -(-settings.steps // per_epoch))
    steps = epochs * per_epoch
    warmup = max(1, round(WARMUP * epochs * per_epoch))
    for epoch in range(epochs):
        order = epoch_order(len(images), batch, seed, epoch)
        first = epoch * per_epoch
        drawn = images.feed.views(rows[order], [settings.views], seed, epoch, first, rank=0)
        for place, (chosen, (view,)) in enumerate(zip(order.to(device), drawn, strict=True)):
            step = first + place
            for group in optimiser.param_groups:
                group["lr"] = warmup_cosine(lr, step, steps, warmup)
            seed_networks(seed, epoch, step, 0)
            loss = F.cross_entropy(model(view), truth[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimiser.step()
    return model.eval()


@dataclass(frozen=True)
class Finetuned:
    """The outcome of ``evaluate_finetuned``. reliability: as ``reliability_rows`` has it."""

    metrics: dict[str, Any]
    reliability: list[ReliabilityRow]


def evaluate_finetuned(
    encoder: Encoder,
    train: LabelledImages,
    val: LabelledImages,
    test: LabelledImages,
    settings: FinetuneSettings,
    lr: Sequence[float],
    bootstrap: int,
    seed: int,
    epochs: Sequence[int] = (),
) -> Finetuned:
    """Select on ``val``, train again on train and val together, read ``test`` once.

    This is the protocol of ``prosmin.evaluation.linear_probe.evaluate_probe``. The lowest NLL on
    val selects the learning rate and, where there are several, the number of epochs.

    train, val: of one set.
    lr: learning rates to select from.
    epochs: numbers of epochs to select from, instead of ``settings.epochs``. Where there are
        several, the metrics have an entry ``after_<n>_epochs`` per number, with the accuracy on
        test of its best learning rate and its NLL on val.
    bootstrap: resamples of the test set behind each interval.

    Raises ``UserError`` where the classes of the splits do not agree.
    """
    val_labels, truth = val.labels, test.labels
    classes = count_classes({"train": train.labels, "val": val_labels, "test": truth})
    both = train.joined(val)
    trials: dict[int, _Trial] = {}
    for count in sorted(set(epochs or (settings.epochs,))):
        length = replace(settings, epochs=count)
        on_val, errors = {}, {}
        for rate in lr:
            model = finetune(encoder, train, classes, length, rate, seed)
            on_val[rate] = model.logits(val)
            errors[rate] = float(classification.nll(on_val[rate], val_labels))
        best = min(sorted(errors), key=errors.__getitem__)
        model = finetune(encoder, both, classes, length, best, seed)
        trials[count] = _Trial(best, errors[best], on_val[best], model.logits(test))
    chosen = min(trials, key=lambda count: trials[count].error)
    best, _, held, logits = trials[chosen]
    if len(lr) > 1 and best in (min(lr), max(lr)):
        log.warning(
            "learning rate %g, at the edge of its grid, has the lowest held-out NLL; "
            "widen the grid",
            best,
        )
    temperature = float(np.float32(calibration.fit_temperature(held, val_labels)))
    probabilities = classification.softmax(held / temperature)
    threshold = conformal.fit_threshold(probabilities, val_labels)
    scored = classification_metrics(logits, truth, temperature, threshold, bootstrap, seed)
    rows = reliability_rows(logits, truth, temperature)
    metrics: dict[str, Any] = {**scored, "lr": best, "epochs": chosen, "n": len(test)}
    metrics["accuracy_val"] = float(classification.accuracy(held, val_labels))
    metrics["n_val"] = len(val)
    if len(trials) > 1:
        for count, trial in trials.items():
            accuracy = partial(classification.accuracy, trial.logits, truth)
            metrics[f"after_{count}_epochs"] = {
                **classification.with_intervals({"accuracy": accuracy}, len(test), bootstrap, seed),
                "lr": trial.lr,
                "nll_val": trial.error,
            }
    return Finetuned(metrics, rows)


class _Trial(NamedTuple):
    """The result of one number of epochs.

    lr: the best learning rate. error: its NLL on val.
    held: logits [N, K] on val of the classifier trained on train.
    logits: [N, K] on test, of the classifier trained on train and val.
    """

    lr: float
    error: float
    held: np.ndarray
    logits: np.ndarray


def finetune_lowshot(
    encoder: Encoder,
    pool: LabelledImages,
    test: LabelledImages,
    per_class: int,
    draws: int,
    settings: FinetuneSettings,
    lr: float,
    seed: int,
) -> list[float]:
    """Accuracy on test per draw of ``per_class`` labels of each class from the pool.

    The draws are those of ``prosmin.evaluation.lowshot.evaluate_lowshot``. ``lr`` is given, because
    a handful of labels leaves none to choose it by.
    Raises ``UserError`` where a class of the pool has fewer images.
    """
    classes = count_classes({"train": pool.labels, "test": test.labels})
    accuracies = []
    for draw in range(draws):
        chosen = pool.part(few_labels(pool.labels, per_class, seed, draw))
        model = finetune(encoder, chosen, classes, settings, lr, seed)
        accuracies.append(float(classification.accuracy(model.logits(test), test.labels)))
    return accuracies


def geometry(views: ViewSettings) -> ViewSettings:
    """Keep the crop, the flip and the rotation of ``views``, and leave out the changes of colour.

    A classifier may use the colour that a self-supervised encoder learns to ignore.
    """
    return replace(views, jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)
