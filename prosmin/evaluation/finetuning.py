"""Full fine-tuning: the encoder and a linear classifier on it, trained together on labelled images.

Letters in shapes: N images, C channels, S pixels a side, K classes.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosmin.common.seeds import epoch_order, seed_networks
from prosmin.data.dataset import Split
from prosmin.evaluation.label_subsets import count_classes, few_labels
from prosmin.evaluation.linear_probe import ReliabilityRow, classification_metrics, reliability_rows
from prosmin.metrics import calibration, classification
from prosmin.models.networks import Encoder, decay_groups
from prosmin.training.schedules import warmup_cosine
from prosmin.views.make import make_views
from prosmin.views.settings import ViewSettings

WARMUP = 0.1  # share of the steps

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneSettings:
    """views: the one random view of each image that a step sees. steps: at the least, so that a handful of labels is more than a
    few steps. clip_norm: of the gradient. AdamW, whose weight decay leaves biases and
    normalisation alone; the learning rate is warmed up and then falls to 0 by a cosine."""

    views: ViewSettings
    epochs: int
    batch_size: int
    steps: int = 0
    weight_decay: float = 0.05
    clip_norm: float = 3.0


class Classifier(nn.Module):
    """[B, C, S, S] in [0, 1] -> logits [B, K]. The linear layer starts at zero: the first predictions are uniform, and the first
    steps move it and not yet the encoder."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.num_features, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))

    @torch.inference_mode()
    def logits(self, images: Tensor, batch_size: int = 512) -> np.ndarray:
        """uint8 images [N, C, S, S] -> float64 [N, K], in evaluation mode."""
        self.eval()
        device = self.head.weight.device
        parts = [
            self(batch.to(device).float() / 255.0).double().cpu()
            for batch in images.split(batch_size)
        ]
        return torch.cat(parts).numpy()


def finetune(
    encoder: Encoder,
    images: Tensor,
    labels: np.ndarray,
    classes: int,
    settings: FinetuneSettings,
    lr: float,
    seed: int,
) -> Classifier:
    """A classifier that starts from a copy of ``encoder``, on its device.

    images uint8 [N, C, S, S]; labels [N] in 0..classes-1. Order and views are functions of (seed, epoch, step).
    """
    model = Classifier(copy.deepcopy(encoder), classes).requires_grad_(True)
    device = next(encoder.parameters()).device
    model.to(device).train()
    optimiser = torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=lr)
    images, truth = images.to(device), torch.from_numpy(labels).to(device)
    batch = min(settings.batch_size, len(images))
    each = len(images) // batch
    epochs = max(settings.epochs, -(-settings.steps // each))
    for epoch in range(epochs):
        for place, chosen in enumerate(epoch_order(len(images), batch, seed, epoch).to(device)):
            step = epoch * each + place
            for group in optimiser.param_groups:
                group["lr"] = warmup_cosine(
                    lr, step, epochs * each, max(1, round(WARMUP * epochs * each))
                )
            (view,) = make_views(images[chosen], [settings.views], seed, epoch, step)
            seed_networks(seed, epoch, step, 0)
            loss = F.cross_entropy(model(view), truth[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimiser.step()
    return model.eval()


@dataclass(frozen=True)
class Finetuned:
    """As ``prosmin.evaluation.linear_probe.Evaluation``, without a probe to keep."""

    metrics: dict[str, Any]
    reliability: list[ReliabilityRow]


def evaluate_finetuned(
    encoder: Encoder,
    train: Split,
    val: Split,
    test: Split,
    settings: FinetuneSettings,
    lr: Sequence[float],
    bootstrap: int,
    seed: int,
    epochs: Sequence[int] = (),
) -> Finetuned:
    """Select on ``val``, train again on train and val together, read ``test`` once: the protocol of ``prosmin.evaluation.linear_probe.evaluate_probe``,
    with the learning rate in the place of l2, and the number of epochs where there is one to choose.

    epochs: in the place of ``settings.epochs``. Where there are several, ``after_<n>_epochs`` has the accuracy of each on test, by its
    best learning rate, and its held-out NLL, which chooses.
    Raises ``UserError`` where the classes of the splits do not agree.
    """
    known = {
        name: split.labels.numpy()
        for name, split in (("train", train), ("val", val), ("test", test))
    }
    classes = count_classes(known)
    images, labels = (
        torch.cat([train.images, val.images]),
        np.concatenate([known["train"], known["val"]]),
    )
    tried: dict[int, _Tried] = {}
    for count in sorted(set(epochs or (settings.epochs,))):
        length = replace(settings, epochs=count)
        seen = {
            rate: finetune(
                encoder, train.images, known["train"], classes, length, rate, seed
            ).logits(val.images)
            for rate in lr
        }
        errors = {rate: classification.nll(logits, known["val"]) for rate, logits in seen.items()}
        best = min(sorted(errors), key=errors.__getitem__)
        logits = finetune(encoder, images, labels, classes, length, best, seed).logits(test.images)
        tried[count] = _Tried(best, errors[best], seen[best], logits)
    chosen = min(tried, key=lambda count: tried[count].error)
    best, _, held, logits = tried[chosen]
    if len(lr) > 1 and best in (min(lr), max(lr)):
        log.warning(
            "learning rate %g, at the edge of its grid, has the lowest held-out NLL; widen the grid",
            best,
        )
    temperature = float(np.float32(calibration.fit_temperature(held, known["val"])))
    scored = classification_metrics(logits, known["test"], temperature, bootstrap, seed)
    rows = reliability_rows(logits, known["test"], temperature)
    found = {"lr": best, "epochs": chosen, "n": len(test)}
    found |= {"accuracy_val": classification.accuracy(held, known["val"]), "n_val": len(val)}
    if len(tried) > 1:
        for count, each in tried.items():
            accuracy = partial(classification.accuracy, each.logits, known["test"])
            found[f"after_{count}_epochs"] = {
                **classification.with_intervals({"accuracy": accuracy}, len(test), bootstrap, seed),
                "lr": each.lr,
                "nll_val": each.error,
            }
    return Finetuned(scored | found, rows)


class _Tried(NamedTuple):
    """One number of epochs. error: the held-out NLL of its best learning rate; held, logits: on val, and on test of the classifier that
    was trained on train and val [N, K]."""

    lr: float
    error: float
    held: np.ndarray
    logits: np.ndarray


def finetune_lowshot(
    encoder: Encoder,
    pool: Split,
    test: Split,
    per_class: int,
    draws: int,
    settings: FinetuneSettings,
    lr: float,
    seed: int,
) -> list[float]:
    """Accuracy on test for each draw of ``per_class`` labels of each class from the pool, those that
    ``prosmin.evaluation.lowshot.evaluate_lowshot`` draws. ``lr`` is given: a handful of labels leaves none to choose it by.

    Raises ``UserError`` where a class of the pool has fewer images.
    """
    labels, truth = pool.labels.numpy(), test.labels.numpy()
    classes = count_classes({"train": labels, "test": truth})
    accuracies = []
    for draw in range(draws):
        chosen = few_labels(labels, per_class, seed, draw)
        model = finetune(encoder, pool.images[chosen], labels[chosen], classes, settings, lr, seed)
        accuracies.append(float(classification.accuracy(model.logits(test.images), truth)))
    return accuracies


def geometry(views: ViewSettings) -> ViewSettings:
    """The crop, the flip and the rotation of ``views`` without the changes of colour, which a classifier need not be blind to."""
    return replace(views, jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)
