"""transfer: a linear probe on the frozen features of another dataset than the one trained on.

Reads   results/embed/<target>
Writes  metrics/transfer/<target>.json, plots/transfer/<target>.csv: as the linear stage
"""

from stages.common.command import Unlabelled, check_name, leave_out, run
from stages.linear import RELIABILITY, evaluate, write
from stages.params.load import Params


def main(params: Params, target: str = "") -> None:
    check_name("transfer", "one of transfer.targets", target, params.transfer.targets)
    metrics, reliability = f"metrics/transfer/{target}.json", f"plots/transfer/{target}.csv"
    try:
        evaluations = evaluate(target, params.transfer, params.seed)
    except Unlabelled as error:
        return leave_out(error, metrics, reliability, RELIABILITY)
    write(evaluations, metrics, reliability)


if __name__ == "__main__":
    run("transfer", main)
