"""Corruption errors against hand-worked cases and repetition of the images."""

import json

import numpy as np
import pytest

from prosmin import corruptions
from prosmin.common.errors import ConfigError
from prosmin.metrics import corruption_error, intervals
from prosmin.metrics.corruption_error import Known, Measured

# Two types, two severities, four images.
OWN = np.array(
    [[[1, 1, 1, 0], [1, 1, 0, 0]], [[1, 1, 1, 1], [0, 1, 0, 0]]], bool
)  # errors .25 .5 | 0 .75
OTHER = np.array(
    [[[1, 0, 0, 0], [1, 0, 0, 0]], [[1, 1, 0, 0], [0, 0, 0, 0]]], bool
)  # errors .75 .75 | .5 1
CLEAN = np.array([1, 1, 1, 1], bool)  # error 0
OTHER_CLEAN = np.array([1, 1, 1, 0], bool)  # error .25
A, B = Measured(OWN, CLEAN), Measured(OTHER, OTHER_CLEAN)


def test_errors_by_hand():
    assert corruption_error.error(OWN).tolist() == [[0.25, 0.5], [0, 0.75]]
    assert corruption_error.mce_unnormalised(A) == (0.25 + 0.5 + 0.75) / 4


def test_mce_by_hand():
    """Types by sums: .75 / 1.5 and .75 / 1.5."""
    assert corruption_error.mce(A, B) == 0.5
    assert corruption_error.mce(B, A) == 2.0
    assert corruption_error.mce(A, A) == 1.0


def test_relative_mce_by_hand():
    """Added errors .75 and .75 against 1.5 - 2 * .25 = 1 and 1."""
    assert corruption_error.relative_mce(A, B) == 0.75
    assert corruption_error.relative_mce(B, B) == 1.0


def test_mce_is_a_mean_of_ratios_and_no_ratio_of_means():
    perfect = np.ones_like(OWN)
    perfect[0] = OTHER[0]
    assert (
        corruption_error.mce(Measured(perfect, CLEAN), B) == 0.5
    )  # 1 and 0; the ratio of the sums would be 1.5 / 3
    uneven = OTHER.copy()
    uneven[0] = [[1, 1, 1, 1], [1, 1, 1, 0]]  # errors 0 .25
    mean_error = corruption_error.mce(Measured(perfect, CLEAN), Measured(uneven, CLEAN))
    assert mean_error == pytest.approx((1.5 / 0.25 + 0) / 2)


def test_a_reference_without_errors_leaves_the_ratio_undefined():
    assert np.isnan(corruption_error.mce(A, Measured(np.ones_like(OWN), CLEAN)))
    assert np.isnan(
        corruption_error.relative_mce(A, Measured(OTHER, np.zeros(4, bool)))
    )  # corruption helps it


@pytest.mark.filterwarnings("error")
def test_resamples_are_the_same_numbers_on_repeated_images():
    rng = np.random.default_rng(0)
    own, other = rng.random((2, 3, 5, 40)) < [[[[0.8]]], [[[0.5]]]]
    clean, other_clean = rng.random((2, 40)) < [[0.95], [0.9]]
    model, reference = Measured(own, clean), Measured(other, other_clean)
    counts = next(intervals.resamples(40, 7, seed=0))
    for row, repeats in enumerate(counts.astype(int)):
        again = [np.repeat(hits, repeats, axis=-1) for hits in (own, clean, other, other_clean)]
        repeated, repeated_reference = Measured(*again[:2]), Measured(*again[2:])
        values = corruption_error.relative_mce(model, reference, counts)
        assert values[row] == pytest.approx(
            corruption_error.relative_mce(repeated, repeated_reference)
        )
        expected = corruption_error.mce(repeated, repeated_reference)
        assert corruption_error.mce(model, reference, counts)[row] == pytest.approx(expected)
        assert corruption_error.mce_unnormalised(model, counts)[row] == pytest.approx(
            1 - again[0].mean()
        )
        expected = corruption_error.mce(repeated, Known(np.array([0.5, 0.4, 0.3])))
        assert corruption_error.mce(model, Known(np.array([0.5, 0.4, 0.3])), counts)[
            row
        ] == pytest.approx(expected)


def test_a_model_has_1_against_itself_in_every_resample():
    counts = next(intervals.resamples(4, 50, seed=0))
    values = corruption_error.mce(B, B, counts)
    assert np.isclose(values, 1).sum() + np.isnan(values).sum() == 50


def test_a_known_reference_by_hand():
    """The types have errors .375 and .375: ratios .375 / .75 and .375 / .5.

    Added errors: the same, against .75 - .25 and .5 - .25.
    """
    assert corruption_error.mce(A, Known(np.array([0.75, 0.5]))) == pytest.approx((0.5 + 0.75) / 2)
    assert corruption_error.relative_mce(A, Known(np.array([0.75, 0.5]), 0.25)) == pytest.approx(
        (0.75 + 1.5) / 2
    )
    assert np.isnan(corruption_error.relative_mce(A, Known(np.array([0.75, 0.5]))))


CELLS = {"dataset": "birds", "source": "folders", "severities": [1, 2, 3, 4, 5], "n": 50}


def test_alexnet_is_known_for_the_published_files_of_the_benchmark():
    alexnet = corruption_error.known("alexnet", corruptions.BENCHMARK, CELLS)
    assert len(alexnet.errors) == 15 and alexnet.clean == 0.435
    assert (
        corruption_error.known("alexnet", corruptions.BENCHMARK[::-1], CELLS).errors.tolist()
        == alexnet.errors.tolist()[::-1]
    )


@pytest.mark.parametrize(
    ("types", "cells"),
    [
        (corruptions.BENCHMARK[:14], {}),
        (corruptions.BENCHMARK, {"source": "generated"}),
        (corruptions.BENCHMARK, {"source": "arrays"}),
        (corruptions.BENCHMARK, {"severities": [5]}),
    ],
)
def test_alexnet_is_no_reference_for_other_images(types, cells):
    with pytest.raises(
        ConfigError,
        match="reference is 'alexnet'; its errors are of ImageNet-C's published files; needed",
    ):
        corruption_error.known("alexnet", types, CELLS | cells)


def test_a_file_of_errors_is_a_reference(tmp_path):
    file = tmp_path / "supervised.json"
    file.write_text(
        json.dumps({"accuracy_clean": 0.75, "mce": 1, "errors": {"fog": 0.5, "snow": 0.25}} | CELLS)
    )
    reference = corruption_error.known(str(file), ["snow", "fog"], CELLS)
    assert reference.errors.tolist() == [0.25, 0.5] and reference.clean == 0.25


def test_rounded_errors_are_read_as_the_counts_that_they_are(tmp_path):
    """1 and 250 wrong of 5 x 50 are 0.004 and 1; 16 right of 49 is 0.326531.

    A number that is no such share is left as it is.
    """
    cells = CELLS | {"n": 49}
    content = {
        "accuracy_clean": 0.326531,
        "errors": {"fog": 0.00408163, "snow": 1.0, "frost": 0.3333},
    } | cells
    (tmp_path / "own.json").write_text(json.dumps(content))
    reference = corruption_error.known(str(tmp_path / "own.json"), ["fog", "snow", "frost"], cells)
    assert reference.errors.tolist() == [1 / 245, 1.0, 0.3333] and reference.clean == 1 - 16 / 49


@pytest.mark.parametrize("key", CELLS)
def test_a_file_of_other_images_is_refused(tmp_path, key):
    file = tmp_path / "errors.json"
    other = {"dataset": "fish", "source": "generated", "severities": [5], "n": 40}[key]
    file.write_text(json.dumps({"errors": {"fog": 0.5}} | CELLS | {key: other}))
    with pytest.raises(
        ConfigError,
        match=f"its {key} is .*, here it is .*; errors of other images are no reference",
    ):
        corruption_error.known(str(file), ["fog"], CELLS)
    file.write_text(
        json.dumps({"errors": {"fog": 0.5}} | {name: CELLS[name] for name in CELLS if name != key})
    )
    with pytest.raises(
        ConfigError, match=f"it does not say of which {key} its errors are; here it is"
    ):
        corruption_error.known(str(file), ["fog"], CELLS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "allowed: random, alexnet, or a JSON file, and there is no such file"),
        ("[1]", "needed: JSON"),
        ('{"errors": {"fog": "high"}}', "needed: JSON"),
        ('{"errors": {"fog": 43.5}}', "needed: JSON"),
        ("{", "needed: JSON"),
        (json.dumps({"errors": {"snow": 0.2}} | CELLS), "it has no error for fog"),
    ],
)
def test_a_file_that_is_no_reference_is_refused(tmp_path, content, says):
    file = tmp_path / "errors.json"
    if content:
        file.write_text(content)
    with pytest.raises(ConfigError, match=says):
        corruption_error.known(str(file), ["fog"], CELLS)
