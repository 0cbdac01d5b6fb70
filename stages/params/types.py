"""Building blocks of the sections of ``params.yaml``.

The base class, kinds of values, and rules by which pydantic reads the ranges of ``prosmin``.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
)
from pydantic_core import CoreSchema

from prosmin.common.errors import shown
from prosmin.common.settings import MOST, Exact, OneOrMore, Range


class Section(BaseModel):
    """A section of the file. Unknown keys are errors, as are NaN and infinity.

    The same holds for the dataclasses in a section, which pydantic treats as sections of their own.
    """

    # A name that Python keeps for itself has an underscore at its end: ``lambda_``.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        alias_generator=lambda name: name.rstrip("_"),
    )


# --- numbers, lists and truth values --------------------------------------------------------------


def refuse_bool(value: Any) -> Any:
    """Refuse true and false: YAML reads ``yes`` and ``on`` as true, which Python counts as 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _refuse_point(value: Any) -> Any:
    """Refuse 4.0 for a whole number: it is probably a slip, and another value to DVC than 4."""
    if isinstance(value, float):
        raise ValueError("must be a whole number, written without a point")
    return refuse_bool(value)


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("must not hold anything twice")
    return values


Once = AfterValidator(_distinct)  # for lists in which a repetition is a slip


def _range(bounds: Range, number: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    limits = Field(ge=bounds.least, gt=bounds.above, le=bounds.most, lt=bounds.below)
    check = BeforeValidator(_refuse_point if number is int else refuse_bool)
    return handler.generate_schema(Annotated[number, check, limits])


def _one_or_more(marker: OneOrMore, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    length = Field(min_length=1, max_length=marker.most)
    return handler.generate_schema(Annotated[kind, BeforeValidator(_as_list), Once, length])


def _exact(_: Exact, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    return handler.generate_schema(Annotated[kind, Field(strict=True)])


# How pydantic asks an annotation for its rule. ``prosmin`` itself does not know pydantic.
Range.__get_pydantic_core_schema__ = _range
OneOrMore.__get_pydantic_core_schema__ = _one_or_more
Exact.__get_pydantic_core_schema__ = _exact

Percent = Annotated[float, Range(above=0, most=100)]
Count = Annotated[int, Range(least=1, most=10**9)]  # of images, labels, neighbours
Draws = Annotated[int, Range(least=3, most=1000)]
Seed = Annotated[int, Range(least=0, below=2**31)]
Bootstrap = Annotated[int, Range(least=100, most=10**6)]
Grid = Field(min_length=1, max_length=100)
Labels = Annotated[tuple[Count, ...], Field(max_length=20)]
Percents = Annotated[tuple[Percent, ...], Field(max_length=20)]


# --- text and names -------------------------------------------------------------------------------


def matching(pattern: str, says: str) -> AfterValidator:
    """Refuse text that ``pattern`` does not match as a whole. says: what the text must be."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {says}")
        return value

    return AfterValidator(check)


Text = Annotated[
    str, Field(min_length=1, max_length=2000), matching("[^\x00-\x1f\x7f]*", "text on one line")
]
Revision = Annotated[str, matching("[0-9a-f]{40}", "a full commit id: 40 digits of 0-9 and a-f")]
SplitName = Literal["train", "val", "test"]


def plain(value: Any) -> Any:
    """Refuse values that JSON does not have and numbers too large for a network."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("must have text for keys")
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, int | float) and not abs(value) <= MOST:
        raise ValueError(f"must hold numbers of at most {MOST} in size, not {shown(value)}")
    if not isinstance(value, str | int | float | None):
        raise ValueError(
            f"must hold numbers, text, true, false, null, lists and sections, not {shown(value)}"
        )
    return value
