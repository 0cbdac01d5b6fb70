"""The file of recorded runs; judging/test_comparison.py writes a page from one."""

import json
from dataclasses import replace

import pytest

from pipelines.study import record
from pipelines.study.choice import Due, Trial, Tuning
from pipelines.study.file import Study
from pipelines.study.plan import Plan
from pipelines.study.results import Known, Result
from prosmin.common.errors import UserError
from tests.pipelines.study.test_file import SMALL


def test_a_record_holds_the_numbers_of_the_page_and_of_the_choice_alone(tmp_path):
    plan = Plan("small", Study.model_validate(SMALL), {}, "first")
    tried = plan.choice_run("prosmin", 0, {"pretrain.lr": 0.1})
    compared = plan.final_run("prosmin", {"pretrain.lr": 0.1}, 0)
    values = {"accuracy": 0.5, "accuracy_val": 0.6, "accuracy_low": 0.4}
    files = {
        "metrics/linear.json": {"trained": values, "random": values},
        "metrics/ood/far.json": {"distance": "far", "trained": {"knn": {"auroc": 0.7, "aupr": 1}}},
    }
    result = Result(files, {"pretrain": 2.5})
    due = Due({"prosmin": Tuning([Trial({}, tried, 0.6)])}, [], {"prosmin": [compared]})
    known = Known({}, {tried.key: result, compared.key: result})
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(record.content(plan, due, known)))
    read = record.read([path])
    assert read[tried.key].files == {
        "metrics/linear.json": {
            "trained": {"accuracy_val": 0.6},
            "random": {"accuracy_val": 0.6},
        }
    }
    assert read[compared.key].files == {
        "metrics/linear.json": {"trained": {"accuracy": 0.5}, "random": {"accuracy": 0.5}},
        "metrics/ood/far.json": {"distance": "far", "trained": {"knn": {"auroc": 0.7}}},
    }
    assert read[compared.key].seconds == {"pretrain": 2.5}
    assert read[compared.key].commit == "first"
    later = replace(plan, commit="second")
    assert later.final_run("prosmin", {"pretrain.lr": 0.1}, 0).key in read
    assert later.final_run("prosmin", {"pretrain.lr": 0.2}, 0).key not in read


def test_a_file_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "runs.json"
    path.write_text('{"runs": [{"method": "byol"}]}')
    with pytest.raises(UserError, match=r"runs.json: runs.0.study is missing"):
        record.read([path])
    with pytest.raises(UserError, match=r"nowhere.json"):
        record.read([tmp_path / "nowhere.json"])
