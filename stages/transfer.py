"""transfer: a linear probe on the frozen features of another dataset than the one trained on.

Reads   results/embed/<target>
Writes  metrics/transfer/<target>.json, plots/transfer/<target>.csv: as the linear stage
"""

from stages.common import layout
from stages.common.command import check_name, needs_labels, run
from stages.linear import RELIABILITY_COLUMNS, evaluate, write
from stages.params.load import Params


@needs_labels(layout.metrics("transfer", "{}"), layout.plot("transfer", "{}"), RELIABILITY_COLUMNS)
def main(params: Params, target: str = "") -> None:
    check_name("transfer", "one of transfer.targets", target, params.transfer.targets)
    evaluations = evaluate(target, params.transfer, params.seed)
    write(evaluations, layout.metrics("transfer", target), layout.plot("transfer", target))


if __name__ == "__main__":
    run("transfer", main)
