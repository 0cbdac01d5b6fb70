"""The section ``fetch``: datasets by name, each with its source."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, model_validator

from prosmin.common.settings import Fraction, Probability, Range
from stages.params.types import Count, Revision, Section, SplitName, Text, matching

Transform = Literal["none", "invert", "rotate90", "permute", "noise", "halves"]


class Dataset(Section):
    """The keys of every source."""

    val_fraction: Fraction = 0.2
    test_fraction: Probability = 0.2  # 1: all images, for a set that is evaluated on alone
    limit: dict[SplitName, Count] = {}
    max_unreadable: Probability = 0.01
    transform: Transform = "none"
    short_side: Annotated[int, Range(least=96, most=4096)] | None = None
    human_labels: Text | None = None

    @model_validator(mode="after")
    def _leaves_train(self) -> "Dataset":
        if self.test_fraction < 1 <= self.val_fraction + self.test_fraction:
            raise ValueError(
                "val_fraction and test_fraction must add up to less than 1, "
                "or nothing is left to train on"
            )
        return self


class Builtin(Dataset):
    source: Literal["builtin"]
    name: Literal["digits", "patches"]
    patch: Annotated[int, Range(least=8, most=128)] = 16


class Folder(Dataset):
    source: Literal["folder"]
    path: Text
    splits: dict[SplitName, Text] = {}
    classes: Literal["top", "leaf"] = "top"


class Parquet(Dataset):
    source: Literal["parquet"]
    files: dict[SplitName, Text] = Field(min_length=1)
    image: Text = "image"
    label: Text | None = "label"


class Hub(Dataset):
    source: Literal["hub"]
    repo: Text
    revision: Revision
    config: Text | None = None
    splits: dict[SplitName, Text] = Field(default={"train": "train", "test": "test"}, min_length=1)
    image: Text = "image"
    label: Text | None = "label"


# It becomes the name of files and folders, and of a stage in dvc.yaml.
# DVC takes 1e5 and 08 for numbers, also where PyYAML does not, and names other stages by them.
DatasetName = Annotated[
    str,
    matching(
        r"(?!(0o)?\d[\d_]*(e\d+)?$)[a-z0-9_]{1,64}",
        "a name of a-z, 0-9 and _, of at most 64, and no number",
    ),
]
AnyDataset = Annotated[Builtin | Folder | Parquet | Hub, Discriminator("source")]
