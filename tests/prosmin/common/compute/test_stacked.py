"""A table of several arrays reads as the array that they make together."""

import numpy as np
import pytest

from prosmin.common.compute.stacked import Stack

WHOLE = np.arange(60, dtype=np.float32).reshape(20, 3)
PARTS = {"one": (20,), "two": (13, 7), "with an empty one": (0, 4, 0, 16)}
WANTED = {
    "all": slice(None),
    "inside a part": slice(1, 3),
    "over an edge": slice(3, 15),
    "beyond the end": slice(18, 99),
    "none": slice(5, 5),
    "numbers": np.array([19, 0, 4, 4, 13]),
    "a table of numbers": np.arange(20)[::-1].reshape(4, 5),
    "no numbers": np.array([], int),
}


@pytest.fixture(params=PARTS.values(), ids=PARTS)
def stack(request):
    return Stack(tuple(np.split(WHOLE, np.cumsum(request.param)[:-1])))


@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
def test_rows_are_those_of_the_whole_array(stack, wanted):
    assert stack.shape == (20, 3) and len(stack) == 20
    np.testing.assert_array_equal(stack[wanted], WHOLE[wanted])
    assert stack[wanted].dtype == np.float32


@pytest.mark.parametrize("wanted", list(WANTED.values())[:5], ids=list(WANTED)[:5])
def test_chosen_rows_of_chosen_rows_are_numpys(stack, wanted):
    mask, numbers = np.arange(20) % 4 > 0, np.array([7, 2, 3, 9])
    some = stack.rows(mask)
    np.testing.assert_array_equal(some[wanted], WHOLE[mask][wanted])
    assert some.shape == (15, 3)
    np.testing.assert_array_equal(some.rows(numbers)[:], WHOLE[mask][numbers])


def test_rows_inside_one_part_are_not_copied():
    stack = Stack((WHOLE[:13], WHOLE[13:]))
    assert np.shares_memory(stack[2:9], WHOLE) and not np.shares_memory(stack[2:15], WHOLE)
