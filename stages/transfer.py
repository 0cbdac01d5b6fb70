"""transfer: a linear probe on the frozen features of another dataset than the one trained on.

Reads   results/embed/<target>
Writes  metrics/transfer/<target>.json, plots/transfer/<target>.csv: as the linear stage
"""

from prosmin.errors import UserError, nearest
from stages.command import run
from stages.linear import evaluate, write
from stages.params import Params


def main(params: Params, target: str = "") -> None:
    targets = params.transfer.targets
    if target not in targets:
        raise UserError(
            f"transfer needs one of transfer.targets, not {target!r}; "
            f"params.yaml has {', '.join(targets) or 'none'}{nearest(target, targets)}"
        )
    evaluations = evaluate(target, params.transfer, params.seed)
    write(evaluations, f"metrics/transfer/{target}.json", f"plots/transfer/{target}.csv")


if __name__ == "__main__":
    run("transfer", main)
