"""The closed-form score against the paper's loop over samples.

    python -m benchmarks.speed.loss [--dim 2048]

Forward and backward pass of both for one batch, on one thread, in turns (the median of the
ratios), and the bytes that each keeps for its backward pass, at K = 4, 16 and 64 samples. The
closed form has no K. The loop draws K samples of the prediction and goes through all pairs of
them (Vahidi et al., ICLR 2024, eq. 6). ``prosmin.scoring.crps_monte_carlo``, which sorts the
samples instead, is timed beside them.
"""

import argparse
import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.record import record  # noqa: E402
from benchmarks.speed.turns import figures, in_turns  # noqa: E402
from prosmin import scoring  # noqa: E402

SAMPLES = (4, 16, 64)


def loop(mu: Tensor, sigma: Tensor, y: Tensor, samples: int) -> Tensor:
    """2 E|X - y| - E|X - X'| [B], mean over dimensions, from ``samples`` draws."""
    draws = [mu + sigma * torch.randn_like(mu) for _ in range(samples)]
    error = sum((x - y).abs() for x in draws) / samples
    spread = sum((x - other).abs() for place, x in enumerate(draws) for other in draws[:place])
    return (2 * error - 2 * spread / (samples * (samples - 1))).mean(1)


def kept(score: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: tuple[Tensor, ...]) -> int:
    """Bytes that a forward pass saves for its backward pass, without the inputs."""
    given = {each.untyped_storage().data_ptr() for each in inputs}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = score(*inputs).mean()
    del alive
    return sum(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.loss", description="The closed form against the loop."
    )
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.manual_seed(0)
    mu, y = (torch.randn(given.batch, given.dim) for _ in range(2))
    sigma = torch.rand(given.batch, given.dim) + 0.1
    mu.requires_grad_(), sigma.requires_grad_()

    scores = {"closed_form": scoring.crps}
    for samples in SAMPLES:
        scores[f"loop_{samples}"] = lambda *inputs, samples=samples: loop(*inputs, samples)
        scores[f"sorted_{samples}"] = lambda *inputs, samples=samples: scoring.crps_monte_carlo(
            *inputs, 1.0, samples
        )
    means = {name: float(score(mu, sigma, y).mean()) for name, score in scores.items()}
    if any(
        abs(mean - means["closed_form"]) > 0.02 * abs(means["closed_form"])
        for mean in means.values()
    ):
        raise SystemExit(f"error: the scores do not agree: {means}")

    def both(name: str) -> Callable[[], Any]:
        def work() -> None:
            mu.grad = sigma.grad = None
            scores[name](mu, sigma, y).mean().backward()

        return work

    seconds = in_turns(given.rounds, **{name: both(name) for name in scores})
    found: dict[str, Any] = {"batch": given.batch, "dim": given.dim, "means": means}
    for name in scores:
        found[name] = {"kept_mib": round(kept(scores[name], (mu, sigma, y)) / 2**20, 2)}
        if name != "closed_form":
            found[name] |= figures(
                {key: seconds[key] for key in (name, "closed_form")}, name, "closed_form"
            )
    record("loss", ["torch"], found)


if __name__ == "__main__":
    main()
