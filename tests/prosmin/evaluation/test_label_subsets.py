"""Subsets of labelled images: classes that agree, held-out parts, a few labels per class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prosmin.common.errors import UserError
from prosmin.common.seeds import generator
from prosmin.evaluation import label_subsets
from prosmin.evaluation.label_subsets import count_classes, few_labels, stratified_holdout
from prosmin.metrics import detection, intervals


def test_classes_are_those_of_the_split_fitted_to():
    assert count_classes({"train": np.array([0, 1, 2, 1]), "test": np.array([1])}) == 3


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 1], [0, 2, 3], "class 2 has no image in the train split, while the test split has"),
        ([0, 2], [0, 2], "class 1 has no image in the train split, while higher classes have"),
        ([0, 1], [0, -1, -1], "2 of 3 images of the test split have no label"),
        ([-1, 1], [0], "1 of 2 images of the train split have no label"),
        ([0, 0], [0], "all images of the train split are of one class"),
        ([0, 1], [], "the test split is empty"),
    ],
)
def test_splits_whose_classes_do_not_go_together_are_refused(train, test, message):
    with pytest.raises(UserError, match=message):
        count_classes({"train": np.array(train, int), "test": np.array(test, int)})


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0, 0.9), st.integers(0, 99))
def test_a_holdout_takes_the_share_of_each_class_and_leaves_one(labels, fraction, seed):
    labels = np.array(labels)
    kept, held = stratified_holdout(labels, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert list(kept) == sorted(kept) and list(held) == sorted(held)
    for label in np.unique(labels):
        size = (labels == label).sum()
        assert (labels[held] == label).sum() == min(round(fraction * size), size - 1)


def test_a_holdout_follows_the_seed():
    labels = np.arange(100) % 5
    one, again, other = (stratified_holdout(labels, 0.2, seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_labels_held_out_and_resampled_have_streams_of_their_own(monkeypatch):
    """Five images, five labels per class, five resampled: the first number of each generator."""
    first = []

    def noted(*key):
        first.append(generator(*key).integers(2**62))
        return generator(*key)

    for module in (label_subsets, intervals, detection):
        monkeypatch.setattr(module, "generator", noted)
    stratified_holdout(np.arange(5), 0.5, 0)
    few_labels(np.repeat([0, 1], 5), 5, 0, 0)
    next(intervals.resamples(5, 1, 0))
    detection.auroc_resamples(np.arange(5.0), np.arange(5.0), resamples=1, seed=0)
    assert len(set(first)) == len(first) == 4


def test_few_labels_are_balanced_distinct_and_repeatable():
    labels = np.random.default_rng(0).integers(0, 4, 100)
    drawn = [few_labels(labels, 5, 0, draw) for draw in range(200)]
    assert all(
        np.bincount(labels[rows]).tolist() == [5] * 4 and len(set(rows)) == 20 for rows in drawn
    )
    assert np.array_equal(drawn[3], few_labels(labels, 5, 0, 3))
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(
        drawn[0], few_labels(labels, 5, 1, 0)
    )
    assert set(np.concatenate(drawn)) == set(range(100))  # every image gets its turn


def test_a_class_with_too_few_images_is_named():
    with pytest.raises(
        UserError, match="class 1 has 2 labelled images, fewer than the 3 asked for"
    ):
        few_labels(np.array([0, 0, 0, 1, 1]), 3, 0, 0)
