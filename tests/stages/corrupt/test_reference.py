"""Errors of a reference model, by which mCE divides, from a file."""

import pytest

from prosmin.common import files
from prosmin.common.errors import UserError
from stages import corrupt
from tests.stages.corrupt.cells import changed, written


def test_a_reference_from_a_file(place, params):
    corrupt.main(params)
    before = files.read_json("metrics/corrupt.json")
    files.write_json("reference.json", before["random"])
    corrupt.main(changed(params, reference="reference.json"))
    metrics = files.read_json("metrics/corrupt.json")
    for name in ("mce", "relative_mce"):
        assert metrics["trained"][name] == pytest.approx(before["trained"][name], rel=1e-4)
        assert metrics["random"][name] == 1.0  # exactly, though the file holds rounded errors
    assert (
        metrics["random"]["mce_low"] < 1 < metrics["random"]["mce_high"]
    )  # a fixed reference is not resampled


def test_a_reference_of_other_cells_is_refused_before_anything_is_measured(place, params):
    """Another severity, other images or an older file of the model: no number at all."""
    corrupt.main(params)
    content = files.read_json("metrics/corrupt.json")["random"]
    assert (
        content["severities"] == [1, 5]
        and content["source"] == "generated"
        and content["dataset"] == "digits"
    )
    files.write_json("reference.json", content)
    before = written()
    with pytest.raises(
        UserError, match=r"its severities is \[1, 5\], here it is \[5\]; errors of other images"
    ):
        corrupt.main(changed(params, reference="reference.json", severities=(5,)))
    files.write_json("reference.json", content | {"images": "0" * 16})
    with pytest.raises(UserError, match="its images is 0000000000000000, here it is"):
        corrupt.main(changed(params, reference="reference.json"))
    files.write_json(
        "reference.json", {name: content[name] for name in ("accuracy_clean", "errors")}
    )
    with pytest.raises(
        UserError, match="it does not say of which dataset its errors are; here it is digits"
    ):
        corrupt.main(changed(params, reference="reference.json"))
    assert written() == before


def test_a_ratio_that_its_reference_leaves_undefined_is_null(place, params):
    corrupt.main(params)
    content = files.read_json("metrics/corrupt.json")["random"]
    del content["accuracy_clean"]
    files.write_json("reference.json", content)
    corrupt.main(changed(params, reference="reference.json"))
    metrics = files.read_json("metrics/corrupt.json")["random"]
    assert metrics["mce"] == 1 and metrics["relative_mce"] is None
