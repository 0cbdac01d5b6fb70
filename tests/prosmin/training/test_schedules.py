import math

import pytest
import torch

from prosmin.training.schedules import cosine, warmup_cosine


def test_cosine_meets_both_ends_and_the_middle():
    assert cosine(0.9, 1.0, 0, 101) == 0.9
    assert cosine(0.9, 1.0, 50, 101) == pytest.approx(0.95)
    assert cosine(0.9, 1.0, 100, 101) == 1.0
    assert cosine(0.9, 1.0, 500, 101) == 1.0


def test_cosine_equals_torch_cosine_annealing():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9, eta_min=0.5)
    for step in range(10):
        assert cosine(2.0, 0.5, step, 10) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_warmup_rises_to_the_peak_then_falls_to_zero():
    rates = [warmup_cosine(1.0, step, 20, 5) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(left >= right for left, right in zip(rates[4:], rates[5:]))
    assert rates[-1] == pytest.approx(0.0)


def test_one_step_and_no_warmup_are_well_defined():
    assert math.isfinite(warmup_cosine(1.0, 0, 1, 0))
