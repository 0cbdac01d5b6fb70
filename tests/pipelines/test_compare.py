"""Runs side by side: the mean over OOD sets and its difference."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.compare.__main__ import table
from pipelines.compare.results import Results, Row
from stages.params.load import load

PARAMS = load(Path(__file__).parents[2] / "params.yaml")
SETS = [Row(f"OOD, {name} (far), knn", "auroc") for name in ("a", "b")]
MEAN = Row("OOD, mean of 2 far sets, knn", "auroc")


def run(name: str, shift: float) -> Results:
    """Two OOD sets, whose scores are higher by ``shift`` than those of the ID images."""
    rng = np.random.default_rng(0)
    scores = {
        row: (letter, rng.normal(size=80), rng.normal(shift, size=60))
        for row, letter in zip(SETS, "ab", strict=True)
    }
    others = {letter: np.arange(60) for letter in "ab"}
    digests = np.arange(80, dtype=np.uint64)
    return Results(name, PARAMS, Path(), digests, {}, scores, {MEAN: SETS}, others)


def test_the_mean_over_ood_sets_has_the_mean_difference_of_its_sets():
    runs = [run("first", 0.5), run("second", 1.5)]
    found = table(runs, bootstrap=100)
    assert list(found) == [*SETS, MEAN]
    for place in range(2):
        members = [found[row][place] for row in SETS]
        assert found[MEAN][place][:3] == pytest.approx(np.mean([m[:3] for m in members], axis=0))
    gains = [found[row][1].against for row in SETS]
    assert found[MEAN][1].against == pytest.approx(tuple(np.mean(gains, axis=0)))
    assert found[MEAN][1].mark(MEAN) == "better" and found[MEAN][0].against is None


def test_other_test_images_have_no_mean_difference():
    first, second = run("first", 0.5), run("second", 1.5)
    second.others["b"] = second.others["b"] + 1
    assert table([first, second], bootstrap=100)[MEAN][1].against is None
