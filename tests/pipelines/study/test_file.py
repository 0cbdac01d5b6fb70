"""The file of a study, and what is refused."""

from pathlib import Path

import pytest
import yaml

from pipelines.study.file import Study, load_study
from pipelines.study.plan import (
    Plan,
)
from prosmin.common.errors import UserError

SMALL = {
    "question": "Does it pay?",
    "test": "prosmin",
    "base": {"pretrain.epochs": 2},
    "methods": {
        "prosmin": {"grid": {"pretrain.lr": [0.002, 0.005]}},
        "simclr": {
            "set": {"pretrain.objective": {"name": "simclr"}},
            "grid": {"pretrain.objective.temperature": [0.2, 0.5]},
        },
    },
    "choose": {"by": "metrics/linear.json:trained.accuracy_val", "set": {"pretrain.epochs": 1}},
    "seeds": "range(0, 3)",
    "stages": ["linear"],
}


def changed(**keys):
    return {**SMALL, **keys}


WITHOUT = {name: value for name, value in SMALL.items() if name != "choose"}
ONE_MORE = {**SMALL["methods"], "byol": {"set": {}, "grid": {"pretrain.lr": [1, 2, 3]}}}
FLAT = {**SMALL["methods"], "byol": {"grid": {"pretrain.objective.rule": ["crps", "log"]}}}


TESTED = {"metrics": "metrics/prediction/d.json:trained.clean.coverage_90", "of": "b"}
WRONG = {
    "test": (
        changed(test="prosmn"),
        "test is 'prosmn'; it must be one of the methods: prosmin, simclr "
        "(did you mean 'prosmin'?)",
    ),
    "sizes": (
        changed(methods=ONE_MORE),
        "methods must have equally many points in their grids, not prosmin 2, simclr 2, byol 3",
    ),
    "no choice": (WITHOUT, "choose is missing; it says which point of a grid is taken"),
    "one seed": (changed(seeds=[0]), "seeds is [0]; it must hold at least two"),
    "a seed twice": (changed(seeds=[0, 0]), "seeds is [0, 0]; it must not hold anything twice"),
    "chosen by test": (
        changed(choose={"by": "metrics/linear.json:trained.accuracy"}),
        "choose.by is 'metrics/linear.json:trained.accuracy'; it must be a metric on val: "
        "nothing is chosen by a test number",
    ),
    "nothing to extend": (
        changed(choose={**SMALL["choose"], "extend": True}, methods=FLAT),
        "choose.extend is 1, but methods.byol.grid has no key with two numbers, between or "
        "beyond which a point could be added",
    ),
    "key": (
        changed(seed=3),
        "seed is not a known key (did you mean 'seeds'?); allowed: base, choose, claims, folders, "
        "methods, question, seeds, stages, test",
    ),
    "no direction": (
        changed(claims={"a": {"title": "A", "measures": [TESTED]}}),
        f"claims.a.measures.0.metrics is {TESTED['metrics']!r}; "
        "it must end with a metric of which it is known which way is better",
    ),
}


@pytest.mark.parametrize(("content", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_one_sentence(tmp_path, monkeypatch, content, sentence):
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UserError) as caught:
        load_study(Path("wrong.yaml"))
    assert str(caught.value) == f"wrong.yaml: {sentence}"


def test_weights_of_others_need_no_grid():
    external = {"pretrain.external": {"source": "file", "path": "/weights"}}
    study = Study.model_validate(changed(methods={**SMALL["methods"], "theirs": {"set": external}}))
    assert list(study.tuned) == ["prosmin", "simclr"]
    run = Plan("s", study, {}).choice_run("theirs", 0, {})
    assert "pretrain.splits" not in run.changes
