"""Two processes with half the batch each are one process with the whole of it."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from timm.layers import BatchNormAct2d
from torch import nn

from prosmin import scoring
from prosmin.common import distributed
from prosmin.models.networks import Encoder
from prosmin.objectives.registry import build
from prosmin.objectives.settings import RULES, TRAINED
from tests import gang

NOISE = torch.randn(4, 16, 4, generator=torch.Generator().manual_seed(3))  # [K, N, D]
ALL = [(name, {}) for name in TRAINED if name != "prosmin"]
ALL += [
    ("prosmin", {"rule": rule, "estimator": estimator})
    for rule, estimators in RULES.items()
    for estimator in estimators
]
ALL += [("prosmin", {"normalise": how}) for how in ("none", "centre", "standardise")]
IDENTIFICATION = {"regression": 0.0, "identification": 1.0}
ALL += [("prosmin", IDENTIFICATION), ("prosmin", IDENTIFICATION | {"width": "constant"})]
ALL += [
    ("prosmin", {"regression": 0.3, "identification": 1.0, "heads": heads})
    for heads in ("shared", "stopped")
]
ALL += [(name, {"parts": 2}) for name in TRAINED]  # on top of two processes
ALL += [("prosmin", IDENTIFICATION | {"parts": 2})]
KEYS = {
    "published": {"bottleneck_dim": 5},
    "dino": {"prototypes": 10},
    "simsiam": {"predictor_dim": 5},
    "swav": {"prototypes": 10},
    "lejepa": {"directions": 6},
    "visreg": {"directions": 6},
}


def tiny_model(name, settings, world):
    settings = dict(settings)
    parts = settings.pop("parts", 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = nn.GroupNorm(1, 3) if parts else BatchNormAct2d(3)
        layers = nn.Conv2d(1, 3, 3), norm, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(27, 6)
        backbone = nn.Sequential(*layers)
        backbone.num_features = 6
        content = {"name": name, **KEYS.get(name, {}), **settings}
        model = build(Encoder(backbone, [0.5], [0.25]), 12, 4, content)
    for encoder in (module for module in model.modules() if isinstance(module, Encoder)):
        encoder.in_parts(parts if parts and world > 1 else 1)
    return model


def two_steps():
    """Return state and losses of every objective after two steps on 16 images of all processes."""
    accelerator = Accelerator(cpu=True)
    world, rank = accelerator.num_processes, accelerator.process_index
    mine = slice(16 // world * rank, 16 // world * (rank + 1))

    def draw(mu, sigma, samples, generator=None):
        return mu + sigma * NOISE[:samples, mine]

    scoring.draw = draw  # the same noise for an image wherever it is
    results = []
    for name, settings in ALL:
        model = tiny_model(name, settings, world)
        distributed.synchronise_batch_norm(model, accelerator.device)
        trained, optimizer = accelerator.prepare(
            model, torch.optim.SGD(model.parameters(), 0.05, 0.9)
        )
        images, losses = torch.Generator().manual_seed(5), []
        draws = torch.Generator().manual_seed(6 + rank)  # each process has draws of its own
        for _ in range(2):
            views = [torch.rand(16, 1, size, size, generator=images)[mine] for size in (8, 8, 6)]
            loss = trained(views, draws)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            model.momentum_update(0.9)
            losses.append(float(distributed.mean(loss.detach())))
        results.append({"losses": torch.tensor(losses), **model.state_dict()})
    return results


@pytest.fixture(scope="module")
def one_and_two():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "draw", scoring.draw)  # so that it is put back
        return two_steps(), *gang.run(two_steps)


@pytest.mark.parametrize(
    "place", range(len(ALL)), ids=[" ".join(map(str, (n, *s.values()))) for n, s in ALL]
)
def test_two_processes_with_half_the_batch_equal_one(one_and_two, place):
    one, *two = (results[place] for results in one_and_two)
    for state in two:
        assert state.keys() == one.keys()
        for name, expected in one.items():
            torch.testing.assert_close(state[name], expected, atol=2e-5, rtol=1e-4)


def collectives():
    """Gradients of a loss that mixes what both processes hold."""
    Accelerator(cpu=True)
    rank = distributed.rank()
    x = torch.arange(6, dtype=torch.float64).view(3, 2) + 10 * rank
    x.requires_grad_()
    loss = (
        (distributed.gather(x) ** 2).sum() * (rank + 1)
        + distributed.total(x).pow(3).sum()
        + distributed.mean(x).sum()
    )
    loss.backward()
    content = distributed.from_main(b"state" if rank == 0 else b"ignored", torch.device("cpu"))
    nothing = distributed.from_main(None if rank == 0 else b"ignored", torch.device("cpu"))
    least = distributed.least([float(rank), 5.0 - rank, float("inf")], torch.device("cpu"))
    return {
        "gradient": x.grad,
        "gathered": distributed.gather(x).detach(),
        "told": [content.decode(), str(nothing)],
        "least": least,
    }


def test_sums_and_gathers_hand_back_the_gradients_of_all_processes():
    first, second = gang.run(collectives)
    x = np.concatenate([np.arange(6.0).reshape(3, 2), np.arange(6.0).reshape(3, 2) + 10])
    # losses add up to 3 sum(x^2) + 2 sum((a + b)^3) + sum of means, twice
    expected = 6 * x + 6 * np.tile((x[:3] + x[3:]) ** 2, (2, 1)) + 1
    np.testing.assert_allclose(torch.cat([first["gradient"], second["gradient"]]).numpy(), expected)
    for results in (first, second):
        np.testing.assert_array_equal(results["gathered"].numpy(), x)
        assert results["told"] == ["state", "None"] and results["least"] == [0.0, 4.0, float("inf")]


def test_one_process_has_nothing_to_share():
    x = torch.ones(3, 2)
    assert distributed.gather(x) is x and distributed.mean(x) is x and distributed.total(x) is x
    assert distributed.from_main(b"state", x.device) == b"state" and distributed.least(
        [1.0], x.device
    ) == [1.0]
    layer = nn.Sequential(nn.BatchNorm1d(2))
    distributed.synchronise_batch_norm(layer, x.device)
    assert type(layer[0]) is nn.BatchNorm1d
