"""Full fine-tuning: an encoder and a linear classifier on it, trained together on labels.

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
from prosmin.metrics import calibration, classification, conformal
from prosmin.models.networks import Encoder, decay_groups
from prosmin.training.schedules import warmup_cosine
from prosmin.views.make import make_views
from prosmin.views.settings import ViewSettings

WARMUP = 0.1  # share of the steps

log = logging.getLogger(__name__)


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
    def logits(self, images: Tensor, batch_size: int = 512) -> np.ndarray:
        """Compute float64 logits [N, K] of uint8 images [N, C, S, S], in evaluation mode."""
        self.eval()
        device = self.head.weight.device
        parts = [
            self(batch.to(device).float() / 255.0).double().cpu()
            for batch in torch.split(images, batch_size)
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
    """Train a classifier that starts from a copy of ``encoder``, on the device of the encoder.

    images: uint8 [N, C, S, S]. labels: [N] in 0..classes-1. lr: peak of the learning rate.
    The order of the images and their views are functions of (seed, epoch, step).
    """
    model = Classifier(copy.deepcopy(encoder), classes).requires_grad_(True)
    device = next(encoder.parameters()).device
    model.to(device).train()
    optimiser = torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=lr)
    images, truth = images.to(device), torch.from_numpy(labels).to(device)
    batch = min(settings.batch_size, len(images))
    per_epoch = len(images) // batch
    epochs = max(settings.epochs, -(-settings.steps // per_epoch))
    steps = epochs * per_epoch
    warmup = max(1, round(WARMUP * epochs * per_epoch))
    for epoch in range(epochs):
        for place, chosen in enumerate(epoch_order(len(images), batch, seed, epoch).to(device)):
            step = epoch * per_epoch + place
            for group in optimiser.param_groups:
                group["lr"] = warmup_cosine(lr, step, steps, warmup)
            (view,) = make_views(images[chosen], [settings.views], seed, epoch, step)
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
    train: Split,
    val: Split,
    test: Split,
    settings: FinetuneSettings,
    lr: Sequence[float],
    bootstrap: int,
    seed: int,
    epochs: Sequence[int] = (),
) -> Finetuned:
    """Select on ``val``, train again on train and val together, read ``test`` once.

    This is the protocol of ``prosmin.evaluation.linear_probe.evaluate_probe``. The lowest NLL on
    val selects the learning rate and, where there are several, the number of epochs.

    lr: learning rates to select from.
    epochs: numbers of epochs to select from, instead of ``settings.epochs``. Where there are
        several, the metrics have an entry ``after_<n>_epochs`` per number, with the accuracy on
        test of its best learning rate and its NLL on val.
    bootstrap: resamples of the test set behind each interval.

    Raises ``UserError`` where the classes of the splits do not agree.
    """
    train_labels, val_labels, truth = (part.labels.numpy() for part in (train, val, test))
    classes = count_classes({"train": train_labels, "val": val_labels, "test": truth})
    images = torch.cat([train.images, val.images])
    labels = np.concatenate([train_labels, val_labels])
    trials: dict[int, _Trial] = {}
    for count in sorted(set(epochs or (settings.epochs,))):
        length = replace(settings, epochs=count)
        on_val, errors = {}, {}
        for rate in lr:
            model = finetune(encoder, train.images, train_labels, classes, length, rate, seed)
            on_val[rate] = model.logits(val.images)
            errors[rate] = float(classification.nll(on_val[rate], val_labels))
        best = min(sorted(errors), key=errors.__getitem__)
        model = finetune(encoder, images, labels, classes, length, best, seed)
        trials[count] = _Trial(best, errors[best], on_val[best], model.logits(test.images))
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
    pool: Split,
    test: Split,
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
    labels, truth = pool.labels.numpy(), test.labels.numpy()
    classes = count_classes({"train": labels, "test": truth})
    accuracies = []
    for draw in range(draws):
        chosen = few_labels(labels, per_class, seed, draw)
        model = finetune(encoder, pool.images[chosen], labels[chosen], classes, settings, lr, seed)
        accuracies.append(float(classification.accuracy(model.logits(test.images), truth)))
    return accuracies


def geometry(views: ViewSettings) -> ViewSettings:
    """Keep the crop, the flip and the rotation of ``views``, and leave out the changes of colour.

    A classifier may use the colour that a self-supervised encoder learns to ignore.
    """
    return replace(views, jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)
