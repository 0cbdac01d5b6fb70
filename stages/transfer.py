"""transfer: a linear probe on the frozen features of another dataset than the one trained on.

Reads   results/embed/<target>
Writes  metrics/transfer/<target>.json, plots/transfer/<target>.csv: as the linear stage
"""

from stages.command import check_name, run
from stages.linear import evaluate, write
from stages.params import Params


def main(params: Params, target: str = "") -> None:
    check_name("transfer", "one of transfer.targets", target, params.transfer.targets)
    evaluations = evaluate(target, params.transfer, params.seed)
    write(evaluations, f"metrics/transfer/{target}.json", f"plots/transfer/{target}.csv")


if __name__ == "__main__":
    run("transfer", main)
