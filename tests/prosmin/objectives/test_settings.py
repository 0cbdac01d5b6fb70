"""The settings of objectives: what is refused, and what every objective has."""

import math
import subprocess
import sys
from dataclasses import asdict, fields

import pytest
import torch
from torch import nn

from prosmin.common.errors import ConfigError
from prosmin.models.networks import Encoder
from prosmin.objectives import settings
from prosmin.objectives.registry import CLASSES, build


def test_settings_of_objectives_load_no_torch():
    code = "import sys, prosmin.objectives.settings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_objective_has_a_class_a_name_and_a_title_of_its_own():
    assert set(CLASSES) == set(settings.BY_NAME.values())
    assert all(name == kind.name == kind().name for name, kind in settings.BY_NAME.items())
    assert len({kind.title for kind in settings.BY_NAME.values()}) == len(settings.BY_NAME)


@pytest.mark.parametrize("name", settings.TRAINED)
def test_an_objective_is_built_from_its_settings_as_from_their_mapping(name):
    given = settings.BY_NAME[name]()
    views = [
        torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    ]
    losses = []
    for content in (given, asdict(given), {"name": name}):
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
        backbone.num_features = 6
        model = build(Encoder(backbone, [0.5], [0.25]), 12, 4, content)
        losses.append(model(views, torch.Generator().manual_seed(2)).item())
    assert math.isfinite(losses[0]) and len(set(losses)) == 1


def test_a_mapping_without_a_name_is_prosmin():
    assert settings.from_mapping({"lambda_": 0.5}) == settings.ProSMIN(lambda_=0.5)
    with pytest.raises(TypeError, match="prototypes"):
        settings.from_mapping({"name": "simclr", "prototypes": 5})


def test_every_number_has_a_range():
    for kind in settings.BY_NAME.values():
        for field in fields(kind):
            assert field.type not in (int, float), (kind.name, field.name)


@pytest.mark.parametrize("kind", [settings.ProSMIN, settings.Published])
@pytest.mark.parametrize("value", [0.0, -1.0, math.sqrt(2), 1.5, 2.4])
def test_a_lambda_without_a_minimum_is_refused(kind, value):
    with pytest.raises(ConfigError, match=r"lambda is .*; it must .* sqrt\(2\) = 1.4142"):
        kind(lambda_=value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rule": "cprs"}, "did you mean 'crps'"),
        ({"normalise": "whitten"}, "did you mean 'whiten'"),
        ({"log_sigma": (2.0, -4.0)}, r"must be \[low, high\] with low < high"),
        (
            {"rule": "energy"},
            "estimator is 'closed_form'; the rule energy has only monte_carlo",
        ),
        (
            {"rule": "log", "estimator": "monte_carlo"},
            "estimator is 'monte_carlo'; the rule log has only closed_form",
        ),
        ({"rule": "point", "lambda_": 0.5}, "lambda is 0.5; the rule point has no spread term"),
        ({"rule": "energy", "estimator": "monte_carlo", "lambda_": 1.5}, "below sqrt"),
        ({"heads": "stoped"}, "did you mean 'stopped'"),
        ({"width": "constnat"}, "did you mean 'constant'"),
        ({"heads": "stopped"}, "heads is 'stopped'; nothing would train the encoder; set iden"),
        ({"regression": 0.0}, "regression is 0.0; it must be above 0 where identification is 0"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        settings.ProSMIN(**keys)
