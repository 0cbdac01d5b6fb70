"""The sentence about the rest of a run: when it comes, and what it says."""

import pytest
import torch

from prosmin.training.watch.estimate import Estimate, lasting

CPU = torch.device("cpu")


def test_it_is_told_once_and_the_first_steps_do_not_count():
    estimate = Estimate(total=10_000, batch=4, device=CPU)
    # One slow step in four seconds, then ten a second.
    times = [(4.0, 1), (6.0, 20), (12.0, 80), (16.0, 120), (30.0, 260)]
    told = [estimate.look(0.0, done, now) for now, done in times]
    assert told[:3] == ["", "", ""] and told[4] == ""
    assert told[3].startswith(
        "about 16 min for the 9880 steps that are left, at 40 images/s; a process holds "
    )


def test_of_a_short_rest_nothing_is_told():
    estimate = Estimate(total=300, batch=4, device=CPU)
    assert not any(estimate.look(0.0, 10 * now, float(now)) for now in range(1, 30))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(61, "1 min"), (3599, "1 h"), (7500, "2 h 5 min"), (273_600, "3 d 4 h"), (86_400, "1 d")],
)
def test_times_have_their_two_largest_units(seconds, text):
    assert lasting(seconds) == text


@pytest.mark.gpu
def test_on_a_gpu_its_memory_is_told():
    estimate = Estimate(total=10_000, batch=4, device=torch.device("cuda"))
    assert not estimate.look(0.0, 1, 6.0)
    assert estimate.look(0.0, 100, 20.0).endswith("GiB of its GPU")
