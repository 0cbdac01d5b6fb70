"""Digits with two small untrained networks and their probes."""

import pytest

from prosmin.models import store
from stages import fetch, linear
from stages.embed import main as embed_dataset
from stages.params.load import load
from tests.stages.conftest import ROOT
from tests.stages.corrupt.cells import SEVERITIES, TYPES


@pytest.fixture(scope="package")
def params():
    given = load(ROOT / "params.yaml")
    asked = given.corrupt.model_copy(update={"types": TYPES, "severities": SEVERITIES})
    return given.model_copy(update={"corrupt": asked, "seed": 3})


@pytest.fixture(scope="package")
def made(tmp_path_factory, params):
    """Digits, two small networks of different seeds, their features and probes."""
    folder = tmp_path_factory.mktemp("corrupt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fetch.main(params, "digits")
        narrow = {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 32], "zero_init_last": False}
        settings = store.ModelSettings(
            "resnet18", 8, 1, (0.3,), (0.38,), 32, 16, cifar_stem=True, kwargs=narrow
        )
        pretrained = folder / "results/pretrain"
        pretrained.mkdir(parents=True)
        store.save_description(pretrained, settings, {})
        for seed, weights in enumerate(store.WEIGHTS.values()):
            store.save_state(pretrained / weights, store.build_model(settings, seed).state_dict())
        embed_dataset(params, "digits")
        linear.main(params)
    return folder


@pytest.fixture
def place(made, monkeypatch):
    monkeypatch.chdir(made)
    return made
