"""Means and covariances of rows, part by part, against those of all rows at once."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from prosmin.common.compute import backend
from prosmin.common.compute.moments import Rows


@pytest.fixture(params=[2**21, 7 * 4], ids=["one part", "parts of 7"])
def rows(request, monkeypatch):
    """180 of 200 rows of three groups in float32, doubled when they are read."""
    monkeypatch.setattr(backend, "BLOCK", request.param)
    rng = np.random.default_rng(0)
    array = rng.normal(size=(200, 4)).astype(np.float32) + 5
    chosen = np.sort(rng.permutation(200)[:180])
    return Rows(array, chosen, np.arange(180) % 3, lambda part: 2 * part.astype(np.float64))


def test_means_and_covariance_are_numpys(rows):
    values = 2 * rows.array[rows.chosen].astype(np.float64)
    means = np.stack([values[rows.group == group].mean(axis=0) for group in range(3)])
    np.testing.assert_allclose(rows.means(), means, rtol=1e-13)
    residual = values - means[rows.group]
    np.testing.assert_allclose(rows.covariance(means), residual.T @ residual / 180, rtol=1e-12)


def test_the_number_of_threads_changes_no_digit(rows):
    results = []
    for count in (1, 3):
        with threadpool_limits(count, "blas"):
            results.append(rows.covariance(rows.means()))
    np.testing.assert_array_equal(*results)
