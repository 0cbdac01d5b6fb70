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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prosmin.common import files
from prosmin.common.compute.backend import in_order
from prosmin.common.encoders import ENCODERS
from prosmin.common.errors import UserError
from prosmin.common.seeds import sample_rows
from prosmin.common.threads import one_thread_each
from prosmin.corruptions.apply import block, corrupt
from prosmin.data import dataset
from prosmin.data.stored import Stored
from prosmin.evaluation import prediction
from prosmin.evaluation.embedding import devices, moved
from prosmin.evaluation.prediction import BINS, Predicting
from prosmin.models import store
from stages.common import layout
from stages.common.command import check_name, run
from stages.common.views import view_of_training
from stages.params.load import Params

CLEAN = "clean"
SEEN = 512  # training images at most, for the statistics of the targets
AHEAD = 2  # parts in memory
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
    models = {encoder: store.load_model(layout.PRETRAINED, encoder) for encoder in ENCODERS}
    for encoder, model in models.items():
        if model.sigma_range is None:
            log.info(
                "%s, %s encoder: the objective predicts no distribution, so nothing is measured",
                *(name, encoder),
            )
    predicting = {
        encoder: model for encoder, model in models.items() if model.sigma_range is not None
    }
    metrics: dict[str, dict[str, Any]] = {encoder: {} for encoder in ENCODERS}
    rows: list[tuple[str, str, float, float, float]] = []
    scores: dict[str, np.ndarray] = {}
    scorers: dict[tuple[str, str], prediction.Scorer] = {}
    if predicting:
        training = _training_images(params.dataset, splits, settings)
        seen, components = (
            training.images(sample_rows(len(training), limit, seed, purpose))
            for limit, purpose in (
                (SEEN, "statistics of the targets"),
                (COMPONENTS, "components of the predictive mixture"),
            )
        )
        fit = partial(prediction.fit_reference, images=seen, seeing=seeing, components=components)
        see = partial(_see, params, name, settings, conditions)
        scorers = _score(predicting, conditions, seeing, fit, see, _parts(name, settings))
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


def _score(
    models: Mapping[str, Predicting],
    conditions: Sequence[str],
    seeing: prediction.Seeing,
    fit: Callable[[Predicting], prediction.Reference],
    see: Callable[[range], dict[str, Tensor]],
    parts: Iterable[range],
) -> dict[tuple[str, str], prediction.Scorer]:
    """Score images by every model in every condition, on all threads or GPUs.

    A scorer draws its views from one random stream. So it gets the parts in their order and stays
    on one device, and neither threads nor devices change a digit. The scorers work at the same
    time, while the next part is read and corrupted.

    fit: computes the reference of a model.
    see: the images of a part by condition.
    """
    on, threads = devices(), torch.get_num_threads()
    places = dict(zip(product(models, conditions), cycle(on)))
    count = threads if on == ["cpu"] else threads + len(on)

    def fitted(place: tuple[str, str]) -> tuple[Predicting, prediction.Reference]:
        model = moved([models[place[0]]], place[1])[0]
        return model, fit(model)

    with one_thread_each(count) as pool:
        once = dict.fromkeys((encoder, device) for (encoder, _), device in places.items())
        known = dict(zip(once, pool.map(fitted, once), strict=True))
        scorers = {
            key: prediction.Scorer(*known[key[0], device], seeing) for key, device in places.items()
        }
        for seen in in_order(pool, see, parts, AHEAD):

            def add(key: tuple[str, str], seen: dict[str, Tensor] = seen) -> None:
                scorers[key].add(seen[key[1]])

            list(pool.map(add, scorers))
    return scorers


def _see(
    params: Params,
    name: str,
    settings: store.ModelSettings,
    conditions: Sequence[str],
    rows: range,
) -> dict[str, Tensor]:
    """Some of the test images in every condition, uint8 [n, C, S, S]."""
    folder, channels = f"data/{name}", settings.channels
    images = dataset.load_split(folder, "test", settings.frame, channels, rows).images
    images, severity = images.to(devices()[0]), params.prediction.severity
    return {
        condition: images
        if condition == CLEAN
        else corrupt(images, condition, severity, params.seed, first=rows.start)
        for condition in conditions
    }


def _parts(name: str, settings: store.ModelSettings) -> Iterator[range]:
    """Yield the rows of the test images part by part.

    The length of a part fits the images that are scored together and those that are corrupted
    together, so that the numbers are those of all images at once.
    """
    size = settings.image_size
    length = math.lcm(prediction.CHUNK, block(size, size))
    count = len(dataset.open_split(f"data/{name}", "test"))
    for start in range(0, count, length):
        yield range(start, min(start + length, count))


if __name__ == "__main__":
    run("prediction", main)
