"""prediction: how good the predicted distribution of the target is, on test images of one dataset.

Reads   data/<dataset>, data/<name>, results/pretrain
Writes  metrics/prediction/<name>.json: per encoder and condition the metrics of
            ``prosmin.evaluation.prediction.summarise``. The conditions are clean images and, of the
            dataset trained on, each type of ``prediction.corruptions``
        plots/prediction/<name>.csv: per encoder and condition the histogram of the PIT as density
        results/prediction/<name>/scores.safetensors: ``<encoder>.<detector>`` of
            ``prosmin.evaluation.prediction.view_scores``, float64 [N], a score per clean test image

Where the objective predicts no distribution, all these files are written, and empty.
"""

import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from prosmin.common import files
from prosmin.common.encoders import ENCODERS
from prosmin.common.errors import UserError
from prosmin.common.seeds import sample_rows
from prosmin.corruptions.apply import block, corrupt
from prosmin.data import dataset
from prosmin.data.stored import Stored
from prosmin.evaluation import prediction
from prosmin.evaluation.prediction import BINS
from prosmin.models import store
from stages.common import layout
from stages.common.command import check_name, run
from stages.common.views import view_of_training
from stages.params.load import Params

CLEAN = "clean"
SEEN = 512  # training images at most, for the statistics of the targets
COMPONENTS = 2000  # training images at most, whose predictions make up the mixture

log = logging.getLogger(__name__)


def main(params: Params, name: str = "") -> None:
    check_name("prediction", "the name of a dataset", name, params.fetch)
    asked, seed = params.prediction, params.seed
    settings, trained = store.load_description(layout.PRETRAINED)
    views = view_of_training(trained, settings.image_size)
    with files.decoding(layout.DESCRIPTION):
        splits = list(trained["params"]["splits"])
    seeing = prediction.Seeing(asked.views, views, seed)
    conditions = [CLEAN, *(asked.corruptions if name == params.dataset else ())]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {encoder: store.load_model(layout.PRETRAINED, encoder) for encoder in ENCODERS}
    predicting = {}
    for encoder, model in models.items():
        if model.sigma_range is not None:
            predicting[encoder] = model.to(device)
            continue
        log.info(
            "%s, %s encoder: the objective predicts no distribution, so nothing is measured",
            *(name, encoder),
        )
    metrics: dict[str, dict[str, Any]] = {encoder: {} for encoder in ENCODERS}
    rows: list[tuple[str, str, float, float, float]] = []
    scores: dict[str, np.ndarray] = {}
    scorers = {}
    if predicting:
        training = _training_images(params.dataset, splits, settings)
        known, components = (
            training.images(sample_rows(len(training), limit, seed, purpose))
            for limit, purpose in (
                (SEEN, "statistics of the targets"),
                (COMPONENTS, "components of the predictive mixture"),
            )
        )
        for encoder, model in predicting.items():
            reference = prediction.fit_reference(model, known, seeing, components)
            for condition in conditions:
                scorers[encoder, condition] = prediction.Scorer(model, reference, seeing)
        first = 0
        for images in _test_images(name, settings):
            images = images.to(device)
            for condition in conditions:
                seen = images
                if condition != CLEAN:
                    seen = corrupt(images, condition, asked.severity, seed, first=first)
                for encoder in predicting:
                    scorers[encoder, condition].add(seen)
            first += len(images)
    for (encoder, condition), scorer in scorers.items():
        measured = scorer.measured()
        values = prediction.summarise(measured, asked.bootstrap, seed)
        metrics[encoder][condition] = values | {"n": len(measured.crps)}
        rows += [
            (encoder, condition, place / BINS, (place + 1) / BINS, share * BINS)
            for place, share in enumerate(measured.pit.tolist())
        ]
        if condition == CLEAN:
            for detector, of_images in prediction.view_scores(measured).items():
                scores[f"{encoder}.{detector}"] = of_images
        log.info(
            "%s, %s, %s encoder: 90 %% intervals cover %.3f, CRPS %.4f, with constant sigma %.4f",
            *(name, condition, encoder),
            *(values[key] for key in ("coverage_90", "crps", "crps_constant")),
        )
    with files.whole_folder(layout.results("prediction", name)) as folder:
        files.write_arrays(folder / layout.prediction_scores(name).name, scores)
    files.write_csv(
        layout.plot("prediction", name), ("encoder", "condition", "low", "high", "density"), rows
    )
    files.write_metrics(layout.metrics("prediction", name), metrics)


def _training_images(name: str, splits: list[str], settings: store.ModelSettings) -> Stored:
    """Find the images that the network was trained on."""
    folder = f"data/{name}"
    present = [split for split in dataset.split_names(folder) if split in splits]
    if not present:
        raise UserError(
            f"{folder} has none of the splits that {layout.PRETRAINED} was trained on: "
            f"{', '.join(map(str, splits))}"
        )
    return Stored(folder, present, settings.frame, settings.channels)


def _test_images(name: str, settings: store.ModelSettings) -> Iterator[torch.Tensor]:
    """Yield the test images part by part, uint8 [n, C, S, S].

    The length of a part fits the images that are scored together and those that are corrupted
    together, so that the numbers are those of all images at once.
    """
    size = settings.image_size
    length = math.lcm(prediction.CHUNK, block(size, size))
    folder, channels = f"data/{name}", settings.channels
    for part in dataset.chunks(folder, "test", settings.frame, channels, length):
        yield part.images


if __name__ == "__main__":
    run("prediction", main)
