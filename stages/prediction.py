"""prediction: how good the predicted distribution of the target network's output is, on the test images of one dataset.

Reads   data/<dataset>, data/<name>, results/pretrain
Writes  metrics/prediction/<name>.json: for each encoder and condition what ``prosmin.evaluation.prediction.summarise`` says; the
            conditions are clean and, of the dataset trained on, each corruption type of params
        plots/prediction/<name>.csv: for each encoder and condition the histogram of the PIT, share times bins
        results/prediction/<name>/scores.safetensors: float64 [N] of each clean test image, high where it looks out of
            distribution: ``<encoder>.view_score`` (S of ``prosmin.scoring``, lambda 1) and ``<encoder>.disagreement``, and
            as ``…_constant`` the same with a constant sigma

Where the objective predicts no distribution all of them are there, and empty.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prosmin import corruptions
from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.common.seeds import sample_rows
from prosmin.data import dataset
from prosmin.evaluation import prediction
from prosmin.evaluation.prediction import BINS
from prosmin.models import store
from prosmin.views.settings import ViewSettings
from stages.common.command import check_name, run
from stages.common.features import ENCODERS
from stages.params.load import Params, Views

CLEAN = "clean"
SEEN = 512  # at most so many training images behind the statistics of the targets

log = logging.getLogger(__name__)


def main(params: Params, name: str = "") -> None:
    check_name("prediction", "the name of a dataset", name, params.fetch)
    settings, trained = store.load_description("results/pretrain")
    with files.decoding(f"results/pretrain/{store.DESCRIPTION}", store.AGAIN):
        settled = Views.model_validate(trained["params"]["views"]).model_dump(exclude={"local"})
        seen = list(trained["params"]["splits"])
    views = ViewSettings(size=settings.image_size, **settled)
    seeing = prediction.Seeing(params.prediction.views, views, params.seed)
    known = _training_images(params.dataset, seen, settings, params.seed)
    images = dataset.load_split(
        f"data/{name}", "test", settings.image_size, settings.channels
    ).images
    conditions = {CLEAN: images}
    if name == params.dataset:
        severity = params.prediction.severity
        conditions |= {
            kind: corruptions.corrupt(images, kind, severity, params.seed)
            for kind in params.prediction.corruptions
        }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: dict[str, dict[str, Any]] = {}
    rows: list[tuple[str, str, float, float, float]] = []
    scores: dict[str, np.ndarray] = {}
    for encoder in ENCODERS:
        model = store.load_model("results/pretrain", encoder).to(device)
        if model.sigma_range is None:
            log.info(
                "%s, %s encoder: the objective predicts no distribution, so nothing is measured",
                name,
                encoder,
            )
            found[encoder] = {}
            continue
        reference = prediction.fit_reference(model, known, seeing)
        found[encoder] = {}
        for condition, content in conditions.items():
            measured = prediction.measure(model, content, reference, seeing)
            values = prediction.summarise(measured, params.prediction.bootstrap, params.seed)
            found[encoder][condition] = values | {"n": len(content)}
            rows += [
                (encoder, condition, place / BINS, (place + 1) / BINS, share * BINS)
                for place, share in enumerate(measured.pit.tolist())
            ]
            if condition == CLEAN:
                of_views = prediction.view_scores(measured)
                scores |= {f"{encoder}.{each}": values for each, values in of_views.items()}
            log.info(
                "%s, %s, %s encoder: 90 %% intervals cover %.3f, CRPS %.4f, with constant sigma %.4f",
                name, condition, encoder, *(values[key] for key in ("coverage_90", "crps", "crps_constant")),
            )  # fmt: skip
    with files.whole_folder(Path("results/prediction") / name) as folder:
        files.write_arrays(folder / "scores.safetensors", scores)
    files.write_csv(
        f"plots/prediction/{name}.csv", ("encoder", "condition", "low", "high", "density"), rows
    )
    files.write_metrics(f"metrics/prediction/{name}.json", found)


def _training_images(
    name: str, splits: list[str], settings: store.ModelSettings, seed: int
) -> torch.Tensor:
    """At most ``SEEN`` of the images that the network was trained on, drawn at random."""
    folder = f"data/{name}"
    present = [split for split in dataset.split_names(folder) if split in splits]
    if not present:
        raise UserError(
            f"{folder} has none of the splits that results/pretrain was trained on: {', '.join(map(str, splits))}"
        )
    parts = [
        dataset.load_split(folder, split, settings.image_size, settings.channels).images
        for split in present
    ]
    images = torch.cat(parts)
    return images[sample_rows(len(images), SEEN, seed, "statistics of the targets")]


if __name__ == "__main__":
    run("prediction", main)
