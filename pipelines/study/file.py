"""The file of a study, and the settings of its runs.

    question: Does a predicted distribution pay?     # the title of the page
    test: prosmin                      # the method whose claims are judged
    base:                              # changes of params.yaml in every run, by dotted key
      pretrain.epochs: 10
    methods:                           # by name: further changes, and the grid to choose from
      prosmin: {grid: {pretrain.lr: [0.002, 0.005]}}
      simclr:
        set: {pretrain.objective: {name: simclr}}
        grid: {pretrain.lr: [0.002, 0.005]}
    choose:                            # how a point of the grid is chosen
      by: metrics/linear.json:trained.accuracy_val
      set: {pretrain.epochs: 5}        # further changes of these runs
      seed: 0
      extend: 1                        # rounds of one more point beyond the edge of a grid
    seeds: range(0, 5)                 # of the runs that are compared
    stages: [linear, knn]              # of these runs, with what they need; left out: all
    folders: [cifar10]                 # given on the command line; <cifar10> in values names them

Every method has equally many points. A key of a grid or of ``--set`` may lie below a section that
an earlier change sets: ``pretrain.objective.temperature`` below ``pretrain.objective``.
"""

import itertools
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.flows.grid import MOST, Value, expand
from pipelines.study.judging.claims import CLAIMS, Claim
from prosmin.common.errors import listed, nearest, printable, shown
from prosmin.metrics.catalogue import find
from prosmin.objectives.settings import BY_NAME
from stages.params.types import Seed, matching
from stages.params.yaml_file import read, refusal

# A run of the choice must not learn from the images that choose.
UNSEEN = {"pretrain.splits": ["train"]}
EXTERNAL = "pretrain.external"
Settings = dict[str, Value]
Name = Annotated[
    str, matching(r"[A-Za-z0-9][A-Za-z0-9_.]{0,39}", "a name of letters, digits, '_' and '.'")
]


def is_number(value: Value) -> bool:
    """Whether a value of a grid is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Method(_Part):
    """title: on the page. set: its changes. grid: what is tuned."""

    title: str = ""
    set: Settings = {}
    grid: Settings = {}

    @field_validator("grid")
    @classmethod
    def _expanded(cls, grid: Settings) -> dict[str, list[Value]]:
        for key, values in grid.items():
            if not expand(values):
                raise ValueError(
                    f"{printable(key)} is {shown(values)}; it must be a list or a range that is "
                    "not empty, such as range(1, 9, 2)"
                )
        return {key: expand(values) for key, values in grid.items()}

    @property
    def points(self) -> list[Settings]:
        """Every combination of the values of the grid; without a grid, one point."""
        values = itertools.product(*self.grid.values())
        return [dict(zip(self.grid, combination, strict=True)) for combination in values]

    @property
    def size(self) -> int:
        """The number of points."""
        return math.prod(map(len, self.grid.values()))

    @property
    def external(self) -> bool:
        """Whether its weights are those of others, which leaves nothing to tune."""
        return self.set.get(EXTERNAL) is not None


class Choice(_Part):
    """by: the metric on val. set: further changes. seed: of the runs. extend: rounds."""

    by: str
    set: Settings = {}
    seed: Seed = 0
    extend: Annotated[int, Field(ge=0, le=10)] = 0

    @field_validator("by")
    @classmethod
    def _on_val(cls, by: str) -> str:
        path, colon, key = by.partition(".json:")
        entry = find(key.rpartition(".")[2])
        if not colon or not path.startswith("metrics/") or not entry:
            raise ValueError(
                "must be a file and a key in it, such as metrics/linear.json:trained.accuracy_val"
            )
        if entry.group != "validation":
            raise ValueError("must be a metric on val: nothing is chosen by a test number")
        return by

    @field_validator("extend", mode="before")
    @classmethod
    def _rounds(cls, extend: Any) -> Any:
        return int(extend) if isinstance(extend, bool) else extend

    @property
    def stage(self) -> str:
        """The stage that writes the metric: ``linear`` of metrics/linear.json."""
        return "@".join(Path(self.by.partition(":")[0]).with_suffix("").parts[1:])


class Study(_Part):
    """What a study runs, and what it asks."""

    question: str = Field(min_length=1)
    test: str
    base: Settings = {}
    methods: dict[Name, Method] = Field(min_length=2)
    choose: Choice | None = None
    seeds: list[Seed]
    stages: list[str] = []
    folders: list[Name] = []
    claims: dict[Name, Claim] = {}

    @field_validator("seeds", mode="before")
    @classmethod
    def _listed(cls, seeds: Any) -> Any:
        seeds = expand(seeds) if isinstance(seeds, str) else seeds
        if isinstance(seeds, list) and len(seeds) < 2:
            raise ValueError("must hold at least two")
        return seeds

    @model_validator(mode="after")
    def _fits_together(self) -> "Study":
        if self.test not in self.methods:
            raise ValueError(
                f"test is {self.test!r}; it must be one of the methods: "
                f"{listed(self.methods)}{nearest(self.test, self.methods)}"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {shown(self.seeds)}; it must not hold anything twice")
        sizes = {name: method.size for name, method in self.tuned.items()}
        if len(set(sizes.values())) > 1:
            counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ValueError(f"methods must have equally many points in their grids, not {counts}")
        if max(sizes.values(), default=1) > MOST:
            raise ValueError(f"a grid has more than {MOST} points")
        if max(sizes.values(), default=1) > 1 and self.choose is None:
            raise ValueError("choose is missing; it says which point of a grid is taken")
        if self.choose and self.choose.extend:
            for name, method in self.tuned.items():
                if not any(
                    len(values) > 1 and all(map(is_number, values))
                    for values in method.grid.values()
                ):
                    raise ValueError(
                        f"choose.extend is {self.choose.extend}, but methods.{name}.grid has no "
                        "key with two numbers, between or beyond which a point could be added"
                    )
        return self

    @property
    def judged(self) -> dict[str, Claim]:
        """The claims of every study, with those of the file added or in their place."""
        return CLAIMS | self.claims

    @property
    def tuned(self) -> dict[str, Method]:
        """The methods with something to tune: all but weights of others without a grid."""
        return {
            name: method
            for name, method in self.methods.items()
            if method.grid or not method.external
        }

    def title(self, name: str) -> str:
        """The title of a method; left out, that of the objective of its name."""
        return self.methods[name].title or getattr(BY_NAME.get(name), "title", name)


def load_study(path: Path) -> Study:
    """Read and check the file of a study. Raises ``UserError`` with one line per fault."""
    try:
        return Study.model_validate(read(path))
    except ValidationError as error:
        raise refusal(path, error, Study) from None
