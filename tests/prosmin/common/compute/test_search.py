"""The k closest rows of a bank against sorting all of them, whatever the tiles and the ties."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from prosmin.common.compute import search
from prosmin.common.compute.backend import NUMPY, Backend
from prosmin.common.errors import ConfigError

both = pytest.mark.parametrize("backend", [NUMPY, Backend(torch)], ids=["numpy", "torch"])
SIZES = [(1, 1), (17, 1), (500, 3), (2001, 120), (900, 900)]


def plain(rows):
    return rows, None


def sorted_in_full(values, k):
    index = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(values, index, axis=1), index


@both
@pytest.mark.parametrize(("n", "k"), SIZES)
@pytest.mark.parametrize("tile", [(256, 8192), (4, 64)])
@pytest.mark.parametrize("order", ["random", "rising", "falling", "few values", "one value"])
def test_the_closest_are_the_first_of_all_sorted(backend, n, k, tile, order, monkeypatch):
    """Numbers with few digits, whose products are exact in any order of summation."""
    monkeypatch.setattr(search, "backend", lambda: backend)
    monkeypatch.setitem(search.TILE, "cpu", tile)
    rng = np.random.default_rng(n + k)
    bank = rng.integers(-50, 50, (n, 1)).astype(np.float32)
    if order in ("rising", "falling"):
        bank = np.sort(bank, axis=0)[:: 1 if order == "rising" else -1].copy()
    elif order != "random":
        bank //= 25 if order == "few values" else 1000
    queries = np.array([[1], [2], [0.5], [1], [-1], [3], [1], [0], [4]], np.float32)
    expected = sorted_in_full(queries @ bank.T, k)
    parts = [bank[: n // 3], bank[n // 3 :]]
    for ours, wanted in zip(search.closest(parts, queries, k, plain), expected):
        np.testing.assert_array_equal(ours, wanted)


@both
def test_a_number_per_row_is_subtracted(backend, monkeypatch):
    """Half the squared length ranks by Euclidean distance."""
    monkeypatch.setattr(search, "backend", lambda: backend)
    monkeypatch.setitem(search.TILE, "cpu", (3, 20))
    rng = np.random.default_rng(0)
    bank, queries = (rng.integers(-9, 9, (n, 4)).astype(np.float32) for n in (150, 10))
    squares = np.square(queries[:, None] - bank).sum(2)
    _, index = search.closest(
        [bank], queries, 7, lambda rows: (rows, np.square(rows).sum(axis=1) / 2)
    )
    np.testing.assert_array_equal(index, np.argsort(squares, axis=1, kind="stable")[:, :7])


def test_the_number_of_threads_changes_nothing(monkeypatch):
    monkeypatch.setitem(search.TILE, "cpu", (8, 100))
    rng = np.random.default_rng(0)
    bank, queries = (rng.normal(size=(n, 16)).astype(np.float32) for n in (1000, 70))
    results = []
    for count in (1, 3):
        with threadpool_limits(count, "blas"):
            results.append(search.closest([bank], queries, 5, plain))
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("k", [0, 4])
def test_k_is_within_the_bank(k):
    with pytest.raises(ConfigError, match=rf"k is {k}; there are 3 training images"):
        search.closest([np.eye(3, dtype=np.float32)], np.eye(3, dtype=np.float32), k, plain)
