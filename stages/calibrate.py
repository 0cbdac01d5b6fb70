"""calibrate: several ways to calibrated probabilities of the linear probe, fitted on val.

Reads   results/linear, results/embed/<dataset>, results/pretrain, data/<dataset>
Writes  results/calibrate/<encoder>.safetensors
            (``prosmin.evaluation.recalibration.Recalibration``)
        metrics/calibrate.json: per encoder
            methods: for each way of ``prosmin.evaluation.ways`` nll and ece on
                test, and nll_val and nll_shifted_val on the images that it was fitted or chosen on
            n: number of test images
        and ``chosen``, per encoder the way with the lowest NLL on val and on shifted val

Shifted val are images of val, ``calibrate.images`` at most, as they are and under corruptions of
``calibrate.types``, each severity as often as clean images. These types are not of the benchmark,
on which ``corrupt`` measures. The ways are fitted to the probe that has not seen val; the posterior
is then that of the probe of train and val.

Without labels there is no probe, and ``left_out`` in the metrics gives the reason.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from prosmin.common import files
from prosmin.common.encoders import ENCODERS
from prosmin.common.seeds import sample_rows
from prosmin.corruptions.apply import corrupt
from prosmin.data.stored import Stored
from prosmin.evaluation import recalibration
from prosmin.evaluation.embedding import embed
from prosmin.evaluation.label_subsets import Labelled
from prosmin.evaluation.laplace import Posterior
from prosmin.evaluation.recalibration import Recalibration
from prosmin.metrics import classification
from prosmin.models import store
from stages.common import layout
from stages.common.command import LEFT_OUT, Unlabelled, run
from stages.common.features import load_features, load_labelled, place_of_val
from stages.linear import load_probe
from stages.params.load import Params

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    try:
        metrics, fitted = _fit(params)
    except Unlabelled as error:
        log.warning("%s, which this evaluation needs: it is left out", error)
        metrics, fitted = {LEFT_OUT: f"{error}."}, {}
    with files.whole_folder(layout.results("calibrate")) as folder:
        for encoder, ways in fitted.items():
            ways.save(folder / layout.recalibration(encoder).name)
    files.write_metrics(layout.metrics("calibrate"), metrics)


def _fit(params: Params) -> tuple[dict[str, Any], dict[str, Recalibration]]:
    """The metrics, and the ways of calibration by encoder. Raises ``Unlabelled``."""
    asked, seed = params.calibrate, params.seed
    split, rows = place_of_val(load_features(params.dataset, ENCODERS[0]), seed)
    drawn = sample_rows(len(rows), asked.images, seed, "val under shift")
    images = _images(params, split, rows[drawn])
    metrics: dict[str, Any] = {}
    fitted: dict[str, Recalibration] = {}
    for encoder in ENCODERS:
        train, val, test = load_labelled(params.dataset, encoder, seed)
        held = val[0][drawn], val[1][drawn]
        mixed = _shifted(params, encoder, images, held)
        selected, probe = load_probe(encoder, selected=True), load_probe(encoder)
        ways = recalibration.fit(selected, Posterior.fit(selected, [train]), held, mixed)
        fitted[encoder] = replace(ways, posterior=Posterior.fit(probe, [train, val]))
        methods = {
            method: recalibration.calibration_metrics(logits, test[1], asked.bootstrap, seed)
            for method, logits in fitted[encoder].each(probe, test[0])
        }
        for name, (features, labels) in (("val", held), ("shifted_val", mixed)):
            for method, logits in ways.each(selected, features):
                methods[method][f"nll_{name}"] = float(classification.nll(logits, labels))
        metrics[encoder] = {"methods": methods, "n": len(test[1])}
        told = (f"{method} {values['nll']:.3f}" for method, values in methods.items())
        log.info("%s, %s encoder: NLL on test %s", params.dataset, encoder, ", ".join(told))
    chosen = {encoder: _best(metrics[encoder]["methods"]) for encoder in ENCODERS}
    return metrics | {"chosen": chosen}, fitted


def _best(methods: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The way with the lowest NLL on val, and on shifted val; of equal ones the first."""
    return {
        name: min(methods, key=lambda method: methods[method][f"nll_{name}"])
        for name in ("val", "shifted_val")
    }


def _images(params: Params, split: str, rows: np.ndarray) -> torch.Tensor:
    """Images of these rows, uint8 [n, C, S, S]."""
    model, _ = store.load_description(layout.PRETRAINED)
    return Stored(f"data/{params.dataset}", [split], model.frame, model.channels).images(rows)


def _shifted(params: Params, encoder: str, images: torch.Tensor, clean: Labelled) -> Labelled:
    """Features and labels of the images in all corruptions, and as often as they are."""
    asked, device = params.calibrate, "cuda" if torch.cuda.is_available() else "cpu"
    network, (features, labels) = store.load_encoder(layout.PRETRAINED, encoder).to(device), clean
    parts = [features] * len(asked.types)
    for name in asked.types:
        for severity in asked.severities:
            changed = corrupt(images.to(device), name, severity, params.seed)
            parts.append(embed(network, changed, params.embed.batch_size))
    return np.concatenate(parts), np.tile(labels, len(parts))


if __name__ == "__main__":
    run("calibrate", main)
