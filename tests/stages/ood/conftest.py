"""Digits and patches with features, probes, fitted detectors and scores of networks."""

import shutil

import numpy as np
import pytest

from prosmin.common import files
from prosmin.evaluation import ood_scores
from stages import detectors, fetch, linear
from stages.params.load import load
from tests.stages.conftest import ROOT, Workplace

PREDICTED = [name for name, entry in ood_scores.DETECTORS.items() if entry.from_networks]


@pytest.fixture(scope="package")
def made(tmp_path_factory):
    """Digits against their shuffled pixels with a higher log sigma, with images and a probe."""
    place, rng = Workplace(tmp_path_factory.mktemp("ood")), np.random.default_rng(0)
    for encoder in ("trained", "random"):
        arrays = place.features["patches", encoder]
        arrays["test.features"] = rng.permuted(arrays["test.features"], axis=1)
        arrays["test.log_sigma"] = rng.normal(1, 1, 250).astype(np.float32)
        place.features["digits", encoder]["test.log_sigma"] = rng.normal(0, 1, 250).astype(
            np.float32
        )
    place.write()
    shutil.copy(ROOT / "params.yaml", place.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.folder)
        given = load()
        for shift, name in enumerate(("digits", "patches")):
            fetch.main(given, name)
            predicted(name, rng.normal(shift, 1, 250))
        linear.main(given)
        detectors.main(given)
    return place


def predicted(name, scores):
    """What stands in results/prediction."""
    arrays = {
        f"{encoder}.{score}": scores for encoder in ("trained", "random") for score in PREDICTED
    }
    files.write_arrays(f"results/prediction/{name}/scores.safetensors", arrays)


def outputs(workplace):
    return {name: content for name, content in workplace.written().items() if "/ood/" in name}
