"""Parts on several devices: the order, the bytes, the memory, and how errors end it.

Two devices are two names of the CPU, which share its networks; a machine with two GPUs copies them.
"""

import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from prosmin.common.compute.backend import threads
from prosmin.evaluation.embedding import devices, embed, embed_parts, moved, on_devices
from prosmin.models import store
from tests.prosmin.models.small import SMALL

DIGITS = torch.tensor(load_digits().images[:50] / 16 * 255).round().byte().unsqueeze(1)
PARTS = [lambda rows=rows: DIGITS[rows] for rows in torch.arange(50).split(3)]
PLACES = (["cpu"], ["cpu", "cpu"], ["cpu"] * 3)


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoders():
    return [store.build_model(SMALL, seed=seed).eval().encoder for seed in (0, 1)]


def bytes_of(outputs):
    return [[values.tobytes() for values in of_part] for of_part in outputs]


def test_neither_threads_nor_devices_change_a_byte(encoders):
    several = [list(embed_parts(encoders, PARTS, 2, on)) for on in PLACES]
    torch.set_num_threads(1)
    alone = list(embed_parts(encoders, PARTS, 2, ["cpu"]))
    torch.set_num_threads(3)
    for outputs in several:
        assert bytes_of(outputs) == bytes_of(alone)
    whole = np.concatenate([first for first, _ in alone])
    np.testing.assert_allclose(whole, embed(encoders[0], DIGITS), atol=1e-5)


@pytest.mark.gpu
def test_two_gpus_give_the_bytes_of_one(encoders):
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has fewer than two GPUs")
    there = moved(encoders, "cuda:0")
    one, two = (list(embed_parts(there, PARTS, 2, devices()[:count])) for count in (1, 2))
    assert bytes_of(one) == bytes_of(two)


def test_images_are_made_on_the_device_that_sees_them(encoders):
    late = [lambda part=part: lambda device: part().to(device) for part in PARTS]
    assert bytes_of(embed_parts(encoders, late, 2)) == bytes_of(embed_parts(encoders, PARTS, 2))


@pytest.mark.parametrize("on", PLACES)
def test_a_thread_has_a_part_to_itself(encoders, on):
    seen = []

    def part():
        seen.append((torch.get_num_threads(), threads()))
        return DIGITS[:1]

    assert len(list(embed_parts(encoders, [part] * 9, on=on))) == 9
    assert set(seen) == {(1, 1)}


def test_outputs_keep_the_order_of_parts_that_end_in_another(encoders):
    def part(number):
        time.sleep(0.02 * (number % 3))
        return number

    for on in PLACES:
        made = [lambda number=number: part(number) for number in range(12)]
        assert list(on_devices(encoders, made, lambda _, made: made, on)) == list(range(12))


def test_each_device_has_one_part_at_a_time_while_others_are_made(encoders):
    guard, now, most, making = threading.Lock(), [0], [0], [0]

    def part():
        making[0] = max(making[0], now[0])
        return 0

    def work(networks, made):
        with guard:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with guard:
            now[0] -= 1

    assert len(list(on_devices(encoders, [part] * 20, work, ["cpu", "cpu"]))) == 20
    assert most == [2] and making == [2]


@pytest.mark.parametrize("on", PLACES)
def test_few_parts_are_made_ahead_of_the_output_that_is_taken(encoders, on):
    begun, ahead = [], 2 * (3 if on == ["cpu"] else 3 + len(on))
    parts = (lambda number=number: begun.append(number) for number in range(1000))
    with closing(on_devices(encoders, parts, lambda _, made: made, on)) as outputs:
        for taken in range(3):
            next(outputs)
            time.sleep(0.05)
            assert len(begun) <= taken + ahead
    assert len(begun) <= 3 + ahead  # closing early begins no further part
    time.sleep(0.05)
    assert len(begun) <= 3 + ahead


@pytest.mark.parametrize("on", PLACES)
@pytest.mark.parametrize("where", ["part", "work"])
def test_an_error_is_raised_in_its_place_and_no_further_part_begins(encoders, on, where):
    begun = []

    def run(at, number):
        if at == where and number == 2:
            raise ValueError("unreadable")
        if at == "part":
            begun.append(number)
        return number

    parts = (lambda number=number: run("part", number) for number in range(1000))
    outputs = on_devices(encoders, parts, lambda _, made: run("work", made), on)
    assert [next(outputs), next(outputs)] == [0, 1]
    with pytest.raises(ValueError, match="unreadable"):
        next(outputs)
    assert len(begun) < 20


def test_one_thread_on_a_cpu_needs_no_other(encoders):
    torch.set_num_threads(1)
    seen = []
    parts = [lambda: seen.append(threading.current_thread())] * 3
    assert list(on_devices(encoders, parts, lambda _, made: made, ["cpu"])) == [None] * 3
    assert set(seen) == {threading.current_thread()}
    torch.set_num_threads(3)
