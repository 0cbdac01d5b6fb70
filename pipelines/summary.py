"""The headline numbers of ``metrics/`` as a table for the terminal."""

from stages.headlines import Row


def table(found: list[Row]) -> str:
    """Aligned text, blank where a number is missing."""
    lines = [("", "trained", "95 % interval", "random init")]
    lines += [(row.label, *row.cells()) for row in found]
    label, *numbers = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([line[0].ljust(label), *(cell.rjust(width) for cell, width in zip(line[1:], numbers, strict=True))])
        for line in lines
    )
