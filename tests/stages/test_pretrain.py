"""The pretrain stage: what params name is what the library has, and what the environment may say."""

import inspect
from typing import get_args

import pytest
import torch
from torch import nn

from prosmin import objectives, scoring
from prosmin.errors import UserError
from prosmin.networks import Encoder
from stages import params as sections
from stages import pretrain

NAMES = get_args(sections.Objective.model_fields["name"].annotation)


def test_params_name_the_objectives_and_rules_that_there_are():
    assert set(NAMES) == set(objectives.OBJECTIVES)
    assert set(get_args(sections.Objective.model_fields["rule"].annotation)) == set(scoring.RULES)


@pytest.mark.parametrize("name", NAMES)
def test_the_keys_of_an_objective_are_those_of_its_class(params, name):
    objective = params.pretrain.objective.model_copy(update={"name": name})
    given = pretrain.objective_of(params.pretrain.model_copy(update={"objective": objective}))
    keywords = inspect.signature(objectives.OBJECTIVES[name]).parameters
    assert set(given) - {"name"} == {key for key, each in keywords.items() if each.kind == each.KEYWORD_ONLY}
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    backbone.num_features = 6
    model = objectives.build(Encoder(backbone, [0.5], [0.25]), 12, 4, **given)
    views = [torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert torch.isfinite(model(views))


def test_weight_decay_stays_unless_it_is_given_an_end(params):
    assert pretrain.train_settings_of(params.pretrain).weight_decay == (0.05, 0.05)
    rising = params.pretrain.model_copy(update={"weight_decay_end": 0.5})
    assert pretrain.train_settings_of(rising).weight_decay == (0.05, 0.5)


@pytest.mark.parametrize("given", ["two", "0", "-1", "1.5", ""])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("PROSMIN_PROCESSES", given)
    with pytest.raises(UserError, match=f"^PROSMIN_PROCESSES is '{given}'; it must be a number of processes"):
        pretrain.processes_of(gpus=0)


def test_there_are_no_more_processes_than_gpus(monkeypatch):
    monkeypatch.delenv("PROSMIN_PROCESSES", raising=False)
    assert (pretrain.processes_of(gpus=0), pretrain.processes_of(gpus=4)) == (1, 4)
    monkeypatch.setenv("PROSMIN_PROCESSES", "3")
    assert (pretrain.processes_of(gpus=0), pretrain.processes_of(gpus=4)) == (3, 3)
    with pytest.raises(UserError, match="^PROSMIN_PROCESSES is 3; there are only 2 GPUs"):
        pretrain.processes_of(gpus=2)


@pytest.mark.parametrize("given", ["often", "-1", "nan", "inf"])
def test_a_pause_between_checkpoints_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("PROSMIN_CHECKPOINT_SECONDS", given)
    with pytest.raises(UserError, match=f"^PROSMIN_CHECKPOINT_SECONDS is '{given}'; it must be a number of seconds"):
        pretrain.checkpoints_of("key")
