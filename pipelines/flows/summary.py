"""The end of a run on the screen: headline numbers of these settings, path of the report."""

import os
import sys
from collections.abc import Mapping

from prosmin.common.encoders import SHOWN, TRAINED, UNTRAINED
from stages.common import current, proof
from stages.common.headlines import Row, rows
from stages.common.layout import REPORT
from stages.params.load import Params


def show(params: Params) -> int:
    """Print the numbers that belong to ``params``, the code and the data, and name the others.

    Return the exit code: 1 where a file that DVC restored from its cache is damaged.
    """
    whole, other = current.split()
    paths = {out for stage in other.values() for out in stage.outs}
    if headlines := rows(params, without=paths):
        print(f"\nOn {params.dataset}:\n\n{table(headlines, params.pretrain.shown)}")
    if REPORT.is_file() and current.belongs(str(REPORT), paths):
        print(f"\nReport: {REPORT}")
    existing = [name for name, stage in other.items() if any(map(os.path.exists, stage.outs))]
    if existing:
        names = ", ".join(dict.fromkeys(name.partition("@")[0] for name in existing))
        print(
            f"\nLeft out, being of other settings, code or data: {names}; `make repro` makes it all"
        )
    faults = list(proof.faults(out for stage in whole.values() for out in stage.outs))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


def table(headlines: list[Row], shown: Mapping[str, str] = SHOWN) -> str:
    """Aligned text, blank where a number is missing. shown: names of the two encoders."""
    lines = [("", shown[TRAINED], "95 % interval", shown[UNTRAINED])]
    lines += [(row.label, *row.cells()) for row in headlines]
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
