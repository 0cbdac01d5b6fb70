"""Splits are stratified, balanced and decided by the seed alone."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prosmin.common.seeds import generator
from prosmin.fetching import sources
from prosmin.fetching.sources import Images, Source, builtin
from prosmin.fetching.splits import balanced_subset, divide, hold_out

labels_of_classes = st.lists(st.integers(2, 40), min_size=1, max_size=6).flatmap(
    lambda sizes: st.permutations([label for label, size in enumerate(sizes) for _ in range(size)])
)


@given(labels_of_classes, st.floats(0.01, 0.9), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_held_out_parts_are_stratified_and_disjoint(labels, fraction, seed):
    labels = np.array(labels)
    kept, held = hold_out(labels, fraction, generator(seed, "test"), "test", None)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert (np.diff(held) > 0).all() and (np.diff(kept) > 0).all()
    for label, size in Counter(labels.tolist()).items():
        count = (labels[held] == label).sum()
        assert 1 <= count <= size - 1
        assert abs(count - fraction * size) <= 1 or count in (1, size - 1)


def test_digits_are_split_as_scikit_learn_counts_them():
    splits = divide(builtin("digits", 16, 0.2, 0.2), 0, 0.2, 0.2, {})
    assert {split: len(images) for split, images in splits.items()} == {
        "train": 1149,
        "val": 288,
        "test": 360,
    }


def test_a_fraction_of_zero_makes_no_split():
    assert list(divide(builtin("digits", 16, 0.2, 0.2), 0, 0, 0.2, {})) == ["train", "test"]


def test_the_seed_alone_decides_the_split():
    def test_rows(seed: int, limit: dict[str, int]) -> list[str]:
        splits = divide(builtin("digits", 16, 0.2, 0.2), seed, 0.2, 0.2, limit)
        return [name for _, _, name in splits["test"]]

    assert test_rows(0, {}) == test_rows(0, {"train": 50})
    assert test_rows(0, {}) != test_rows(1, {})


@given(labels_of_classes, st.integers(1, 250), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_a_subset_is_as_balanced_as_the_classes_allow(labels, count, seed):
    labels = np.array(labels)
    rows = balanced_subset(labels, count, generator(seed, "limit"))
    assert len(set(rows.tolist())) == len(rows) == min(count, len(labels))
    sizes, taken = Counter(labels.tolist()), Counter(labels[rows].tolist())
    most = max(taken.values())
    assert all(taken[label] >= min(size, most - 1) for label, size in sizes.items())


def test_unlabelled_images_are_split_and_limited_at_random():
    images = Images(
        sources.no_labels(100),
        lambda rows: ((np.zeros((2, 2, 1), np.uint8), str(row)) for row in rows),
    )
    splits = divide(Source(None, {"train": images}), 0, 0.1, 0.25, {"train": 10})
    assert {split: len(part) for split, part in splits.items()} == {
        "train": 10,
        "val": 8,
        "test": 25,
    }
    assert [name for _, _, name in splits["test"]] != [str(row) for row in range(25)]
