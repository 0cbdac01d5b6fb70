"""Parts of settings dataclasses: ranges of numbers, and the error for a refused value.

``Annotated[int, Range(least=1)]`` is an ``int`` to Python. The range is for whoever reads settings
from a file: it holds every value to its range before the dataclass is made. Rules that link several
values are checked by the dataclass itself, in ``__post_init__``.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

from prosmin.common.errors import ConfigError, nearest

# The largest sizes lie far above all that is of use and below what no machine can do: a slip is
# refused at once and causes no crash after hours.
MOST = 2**16  # units of a layer, images of a batch


@dataclass(frozen=True)
class Range:
    """Bounds of a number, which must also be finite; ``None``: no bound."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class OneOrMore:
    """Mark a tuple for which a file may give one value or a list of different values.

    most: length of the list.
    """

    most: int


@dataclass(frozen=True)
class Exact:
    """Of a truth value: a file must give true or false, not 1 or ``yes`` in quotes."""


Fraction = Annotated[float, Range(least=0, below=1)]
Share = Annotated[float, Range(above=0, most=1)]
Probability = Annotated[float, Range(least=0, most=1)]
Positive = Annotated[float, Range(above=0, most=1e6)]
NonNegative = Annotated[float, Range(least=0, most=1e6)]
Strength = Annotated[float, Range(least=0, most=100)]  # of colour jitter, of noise
Temperature = Annotated[float, Range(least=1e-4, most=1e4)]
Width = Annotated[int, Range(least=1, most=MOST)]
Several = Annotated[int, Range(least=2, most=MOST)]
Pixels = Annotated[int, Range(least=4, most=4096)]
Epochs = Annotated[int, Range(least=1, most=10**6)]
Flag = Annotated[bool, Exact()]


class Refused(ConfigError, ValueError):
    """A ``ConfigError`` that a validating reader reports with all other faults of a file."""


def one_of(key: str, value: str, options: Collection[str]) -> None:
    """Raise ``Refused`` for a value that is not among ``options``."""
    if value not in options:
        allowed = f"it must be one of {', '.join(options)}{nearest(value, options)}"
        raise Refused(key, value, allowed)


def ascending(key: str, ends: tuple[float, float], strictly: bool = False) -> None:
    """Raise ``Refused`` unless ``ends`` are in ascending order.

    strictly: refuse equal ends.
    """
    low, high = ends
    if low > high or (strictly and low == high):
        sign = "<" if strictly else "<="
        raise Refused(key, ends, f"it must be [low, high] with low {sign} high")
