"""The exported folder: what it holds comes back, and every damage is one sentence."""

import json

import numpy as np
import pytest

from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.evaluation.embedding import describe
from prosmin.predicting import bundle

PARTS = ["heads.safetensors", "model.safetensors", "probe.safetensors", "reference.safetensors"]


def changed(export, **values):
    index = json.loads((export / bundle.INDEX).read_text())
    files.write_json(export / bundle.INDEX, index | values)


def test_it_is_safetensors_and_json_alone(made, unlabelled):
    assert sorted(path.name for path in made.folder.iterdir()) == sorted([*PARTS, "prosmin.json"])
    assert not (unlabelled.folder / "probe.safetensors").exists()
    heads = files.read_arrays(made.folder / "heads.safetensors")
    modules = {"projector", "head", "mean", "width", "candidates"}
    assert {name.split(".")[0] for name in heads} == modules


def test_all_parts_come_back(made):
    facts, model, probe, reference = bundle.read(made.folder)
    assert facts.classes == made.facts.classes and facts.images == made.names
    images = made.splits["test"][0]
    ours, theirs = describe(made.model, images), describe(model, images)
    np.testing.assert_array_equal(ours.features, theirs.features)
    np.testing.assert_array_equal(ours.log_sigma, theirs.log_sigma)
    assert ours.doubts.keys() == theirs.doubts.keys() != set()
    assert not model.training
    assert (probe.temperature, probe.threshold) == (made.probe.temperature, made.probe.threshold)
    np.testing.assert_array_equal(probe.weight, made.probe.weight)
    scores = reference.detectors.score(ours.features)[0]
    for name, values in made.reference.detectors.score(ours.features)[0].items():
        np.testing.assert_array_equal(scores[name], values)
        np.testing.assert_array_equal(reference.held[name], made.reference.held[name])
    assert reference.threshold == made.reference.threshold


def test_without_labels_there_is_no_probe(unlabelled):
    facts, _, probe, reference = bundle.read(unlabelled.folder)
    assert facts.classes is None and probe is None and reference.detector == "knn"


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(export, part):
    (export / part).unlink()
    with pytest.raises(UserError, match=f"{part} is missing; export the model again$"):
        bundle.read(export)


@pytest.mark.parametrize("part", [*PARTS, "prosmin.json"])
def test_a_truncated_part_is_named(export, part):
    content = (export / part).read_bytes()
    (export / part).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{part} .*; export the model again$") as failure:
        bundle.read(export)
    assert "\n" not in str(failure.value)


def test_a_part_of_another_export_is_named(export):
    arrays = dict(files.read_arrays(export / "heads.safetensors"))
    name = next(iter(arrays))
    files.write_arrays(export / "heads.safetensors", arrays | {name: arrays[name] + 1})
    with pytest.raises(UserError, match="heads.safetensors belongs to another export"):
        bundle.read(export)


@pytest.mark.parametrize("version", [1, 3, None, "2"])
def test_another_format_is_refused(export, version):
    changed(export, format=version)
    with pytest.raises(
        UserError, match="prosmin.json is of format .*; this version reads format 2"
    ):
        bundle.read(export)


def test_an_export_of_an_older_version_is_named(export):
    (export / bundle.INDEX).unlink()
    with pytest.raises(UserError, match="is of an older version: .* export the model again"):
        bundle.read(export)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no exported model: it has no prosmin.json"):
        bundle.read(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; the folder of an exported model is needed"):
        bundle.read(tmp_path / "file")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": ["red"]}, "has 2 classes"),
        ({"model": 3}, "does not describe a model"),
        ({"parts": {"../x": ""}}, "does not describe a model .*is no name of a file"),
        ({"parts": {}}, "it names no heads.safetensors"),
        ({"detectors": {}}, "prosmin.json cannot be read .it has no .k."),
    ],
)
def test_an_index_that_does_not_fit_is_one_sentence(export, values, message):
    changed(export, **values)
    with pytest.raises(UserError, match=message) as failure:
        bundle.read(export)
    assert "export the model again" in str(failure.value) and "\n" not in str(failure.value)


def test_names_that_do_not_fit_the_features_are_refused(export):
    arrays = dict(files.read_arrays(export / "reference.safetensors"))
    arrays["images"] = arrays["images"].copy()
    arrays["images"][-4:] = ord("\n")
    files.write_arrays(export / "reference.safetensors", arrays)
    index = json.loads((export / bundle.INDEX).read_text())
    checksum = files.checksum(files.read_arrays(export / "reference.safetensors"), {})
    changed(export, parts=index["parts"] | {"reference.safetensors": checksum})
    with pytest.raises(UserError, match="names 104 of 100 training images"):
        bundle.read(export)


def test_weights_of_another_network_are_refused(export, made):
    index = json.loads((export / bundle.INDEX).read_text())
    changed(export, model=index["model"] | {"dim": 9})
    with pytest.raises(UserError, match="do not fit together"):
        bundle.read(export)
