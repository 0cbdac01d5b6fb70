"""How a run ends on the screen: the headline numbers of ``metrics/`` that are of these settings,
and where the report is."""

import os
import sys
from pathlib import Path

from stages.common import current, proof
from stages.common.headlines import Row, rows
from stages.params.load import Params

REPORT = Path("results/report/index.html")


def show(params: Params) -> int:
    """Print what belongs to ``params`` and the code and data as they stand, and name what does not;
    return the exit code, 1 where a file that came out of DVC's cache is damaged."""
    whole, other = current.split()
    paths = {out for stage in other.values() for out in stage.outs}
    if found := rows(params, without=paths):
        print(f"\nOn {params.dataset}:\n\n{table(found)}")
    if REPORT.is_file() and current.belongs(str(REPORT), paths):
        print(f"\nReport: {REPORT}")
    lying = [name for name, stage in other.items() if any(map(os.path.exists, stage.outs))]
    if lying:
        names = ", ".join(dict.fromkeys(name.partition("@")[0] for name in lying))
        print(
            f"\nLeft out, being of other settings, code or data: {names}; `make repro` makes it all"
        )
    faults = list(proof.faults(out for stage in whole.values() for out in stage.outs))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


def table(found: list[Row]) -> str:
    """Aligned text, blank where a number is missing."""
    lines = [("", "trained", "95 % interval", "random init")]
    lines += [(row.label, *row.cells()) for row in found]
    label, *numbers = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(label),
                *(cell.rjust(width) for cell, width in zip(line[1:], numbers, strict=True)),
            ]
        )
        for line in lines
    )
