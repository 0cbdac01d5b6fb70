"""Where large products are computed: parts in order, whatever the number of threads."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from prosmin.common.compute import backend
from prosmin.common.compute.backend import NUMPY, Backend, chunks


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_the_items(count):
    with threadpool_limits(count, "blas"):
        assert backend.threads() == count
        assert list(NUMPY.map(lambda number: number**2, range(40))) == [n**2 for n in range(40)]


def test_blas_has_one_thread_within_a_part_and_all_of_them_afterwards():
    with threadpool_limits(3, "blas"):
        assert set(NUMPY.map(lambda _: backend.threads(), range(9))) == {1}
        assert backend.threads() == 3


def test_an_error_in_a_part_is_raised():
    def fail(number):
        raise ValueError(f"part {number}")

    with threadpool_limits(2, "blas"), pytest.raises(ValueError, match="part 0"):
        list(NUMPY.map(fail, range(5)))


@pytest.mark.parametrize("backend", [NUMPY, Backend(torch)], ids=["numpy", "torch"])
def test_arrays_go_to_the_device_and_back(backend):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    there = backend.put(values, "float64")
    assert there.dtype == backend.xp.float64
    np.testing.assert_array_equal(backend.get(there), values)


def test_chunks_are_consecutive_and_whole():
    assert [list(range(10))[part] for part in chunks(10, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(chunks(0, 4)) == []


def test_without_a_driver_torch_is_not_loaded(monkeypatch):
    monkeypatch.setattr(backend, "DRIVERS", ())
    monkeypatch.delitem(backend.sys.modules, "torch")
    backend._of_device.cache_clear()
    try:
        assert backend.backend() is NUMPY and "torch" not in backend.sys.modules
    finally:
        backend._of_device.cache_clear()


def test_hidden_gpus_are_not_used(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert backend.backend() is NUMPY
