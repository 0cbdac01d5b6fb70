"""The sections of the stages after pretraining, in the order of the file."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from prosmin.common.settings import (
    Epochs,
    Fraction,
    NonNegative,
    Positive,
    Range,
    Several,
    Temperature,
    Width,
)
from prosmin.corruptions import BENCHMARK, EXTRA
from stages.params.types import (
    Bootstrap,
    Count,
    Draws,
    Grid,
    Labels,
    Once,
    Percents,
    Section,
    Text,
    matching,
)

GROUPS = {"benchmark": BENCHMARK, "extra": EXTRA}
CorruptionType = Literal[*BENCHMARK, *EXTRA, *GROUPS]

Severities = Annotated[
    tuple[Annotated[int, Range(least=1, most=5)], ...], Once, Field(min_length=1)
]


def _spread(types: tuple[str, ...]) -> tuple[str, ...]:
    """Put the types of a group in the place of its name."""
    return tuple(member for name in types for member in GROUPS.get(name, (name,)))


class Embed(Section):
    batch_size: Width = 512


class Linear(Section):
    l2: Annotated[tuple[NonNegative, ...], Once] = Grid
    bootstrap: Bootstrap = 1000


class Knn(Section):
    k: Annotated[tuple[Count, ...], Once] = Grid
    temperature: Annotated[tuple[Temperature, ...], Once] = Grid
    bootstrap: Bootstrap = 1000


class Lowshot(Section):
    per_class: Annotated[Labels, Once] = (10,)
    percent: Annotated[Percents, Once] = (1, 10)
    draws: Draws = 5
    l2: Positive = 0.1

    @model_validator(mode="after")
    def _asks_something(self) -> "Lowshot":
        if not self.per_class and not self.percent:
            raise ValueError("per_class and percent must not both be empty")
        return self


class Finetune(Section):
    datasets: Annotated[tuple[str, ...], Once] = ()
    lr: Annotated[tuple[Annotated[float, Range(above=0, most=1000)], ...], Once] = Field(
        default=(0.001,), min_length=1, max_length=20
    )
    epochs: Epochs = 20
    scratch_epochs: Annotated[tuple[Epochs, ...], Once, Field(max_length=20)] = ()
    batch_size: Several = 64
    steps: Annotated[int, Range(least=0, most=10**6)] = 100
    weight_decay: NonNegative = 0.05
    per_class: Annotated[Labels, Once] = ()
    percent: Annotated[Percents, Once] = ()
    draws: Draws = 3
    bootstrap: Bootstrap = 1000


class Ood(Section):
    sets: dict[str, Literal["near", "far"]] = Field(min_length=1)
    k: Count = 10
    temperature: Temperature = 1.0
    shrinkage: Fraction = 0.1
    vim_dim: Width | None = None
    bootstrap: Bootstrap = 1000


class Prediction(Section):
    views: Annotated[int, Range(least=2, most=64)] = 4
    corruptions: Annotated[tuple[CorruptionType, ...], Once] = ()
    severity: Annotated[int, Range(least=1, most=5)] = 3
    bootstrap: Bootstrap = 1000


class Calibrate(Section):
    """types: not those of the benchmark, on which ``corrupt`` measures. images: of val, at most."""

    types: Annotated[tuple[Literal[*EXTRA], ...], Once] = Field(default=EXTRA, min_length=1)
    severities: Severities = (1, 2, 3, 4, 5)
    images: Count = 1000
    bootstrap: Bootstrap = 1000


class Corrupt(Section):
    source: Literal["generated", "folders", "arrays"] = "generated"
    path: Text | None = None
    frost: Text | None = None
    types: Annotated[tuple[CorruptionType, ...], AfterValidator(_spread), Once] = Field(
        min_length=1
    )
    severities: Severities = (1, 2, 3, 4, 5)
    images: Count | None = None
    reference: Text = "random"
    batch_size: Width = 512
    bootstrap: Bootstrap = 1000

    @model_validator(mode="after")
    def _fits_together(self) -> "Corrupt":
        if self.source != "generated" and self.path is None:
            raise ValueError(
                f"path is missing; source {self.source} reads the corrupted images from there"
            )
        if self.source == "generated" and self.path is not None:
            raise ValueError(f"path is {self.path!r}; it is read by source folders or arrays only")
        if self.source != "generated" and self.frost is not None:
            raise ValueError(f"frost is {self.frost!r}; it is read by source generated only")
        if self.source != "generated" and self.images is not None:
            raise ValueError(f"images is {self.images}; it is read by source generated only")
        whole = len(self.severities) == 5 and set(BENCHMARK) <= set(self.types)
        if self.reference == "alexnet" and not (self.source == "folders" and whole):
            raise ValueError(
                "reference is 'alexnet', whose errors are of ImageNet-C's published files; "
                "it goes with source folders, types: [benchmark] and severities 1 to 5"
            )
        return self


class Shift(Section):
    sets: Annotated[tuple[str, ...], Once] = ()
    bootstrap: Bootstrap = 1000


class Transfer(Section):
    targets: Annotated[tuple[str, ...], Once]
    l2: Annotated[tuple[NonNegative, ...], Once] = Grid
    bootstrap: Bootstrap = 1000


class Head(Section):
    """images: of the training split, at most. epochs: passes over them."""

    images: Annotated[int, Range(least=2, most=10**6)] = 10_000
    epochs: Epochs = 20


class Uncertainty(Section):
    datasets: Annotated[tuple[str, ...], Once] = ()
    k: Count = 10
    head: Head = Head()
    bootstrap: Bootstrap = 1000


class Audit(Section):
    """images: of each split that are audited, at most. listed: rows of each table, at most."""

    datasets: Annotated[tuple[str, ...], Once] = Field(min_length=1)
    k: Count = 20
    images: Count | None = None
    listed: Annotated[int, Range(least=1, most=10**6)] = 200
    bootstrap: Bootstrap = 1000


class Report(Section):
    examples: Annotated[int, Range(least=1, most=32)] = 8


class Export(Section):
    name: Annotated[
        str,
        Field(max_length=96),
        matching(
            r"[A-Za-z0-9][A-Za-z0-9._-]*",
            "of letters, digits, '.', '_' and '-', such as vit-small-prosmin",
        ),
    ] = "prosmin-encoder"
    license: Text | None = None
    onnx: bool = False
