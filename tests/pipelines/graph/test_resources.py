"""The share of the machine that dvc.yaml declares: what is allowed, and sentences for the rest."""

from types import SimpleNamespace

import pytest

from pipelines.graph.resources import declared, written
from prosmin.common.errors import UserError

GIB = 2**30


def stage(resources) -> SimpleNamespace:
    meta = {"resources": resources}
    return SimpleNamespace(name="embed@digits", path_in_repo="dvc.yaml", meta=meta)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("4GiB", 4 * GIB), ("4 GiB", 4 * GIB), ("512MiB", GIB // 2), ("1.5TiB", 1536 * GIB)],
)
def test_memory_is_a_number_with_a_unit(text, amount):
    asked = {"gpus": 1, "threads": "all", "memory": text, "weight": 4}
    assert declared(stage(asked)) == asked | {"memory": amount}
    assert declared(SimpleNamespace(name="embed", path_in_repo="dvc.yaml", meta=None)) == {}


@pytest.mark.parametrize(
    "value", ["4GB", "4", 4, "GiB", "-1GiB", "0GiB", "0.0000000001GiB", "1e9GiB"]
)
def test_any_other_memory_is_one_sentence(value):
    guess = r" \(did you mean 'GiB'\?\)" if value == "4GB" else ""
    units = rf"one of the units MiB, GiB, TiB{guess}, such as 4GiB$"
    said = rf"^dvc.yaml: embed@digits: meta.resources.memory is '?{value}'?; it must be a number "
    with pytest.raises(UserError, match=rf"{said}above 0 with {units}"):
        declared(stage({"memory": value}))


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ({"memery": "4GiB"}, r"memery is not a known key \(did you mean 'memory'\?\); allowed: "),
        ({"weight": "all"}, "weight is 'all'; it must be a whole number of at least 1"),
        ({"gpus": -1}, "gpus is -1; it must be all, free, or a whole number of at least 0"),
        (
            {"threads": True},
            "threads is True; it must be all, free, or a whole number of at least 1",
        ),
    ],
)
def test_another_key_or_value_is_one_sentence(resources, sentence):
    with pytest.raises(UserError, match=f"^dvc.yaml: embed@digits: meta.resources.{sentence}"):
        declared(stage(resources))
    with pytest.raises(UserError, match="meta.resources is 4; it must be like"):
        declared(stage(4))


def test_an_amount_is_told_in_a_unit_of_which_there_is_one():
    told = {5: "below 1 MiB", 300 * 2**20: "300 MiB", 1.25 * GIB: "1.2 GiB", 2**41: "2.0 TiB"}
    assert {amount: written(amount) for amount in told} == told
