"""The section ``pretrain``.

Settings of views, training and objectives are the dataclasses of ``prosmin``; the stage adds keys.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field

from prosmin.common.encoders import CONTINUED, SHOWN
from prosmin.common.settings import Flag, Range, Refused, Several, Width
from prosmin.data.frame import SMALLEST_SHARE
from prosmin.objectives.settings import TRAINED, ProSMIN
from prosmin.training.settings import TrainSettings
from prosmin.views.settings import Interpolation
from stages.params.types import Once, Revision, SplitName, Text, matching, plain, refuse_bool

Sha256 = Annotated[str, matching("[0-9a-f]{64}", "64 digits of 0-9 and a-f")]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A timm model. kwargs: passed to ``timm.create_model``."""

    name: Text
    cifar_stem: Flag = False
    kwargs: Annotated[dict[str, Any], Field(max_length=100), AfterValidator(plain)] = field(
        default_factory=dict
    )


@dataclass(frozen=True, kw_only=True)
class External:
    """Weights from elsewhere. mean, std: of the input, per channel, without a ``config.json``."""

    mean: (
        Annotated[
            tuple[Annotated[float, Range(least=-1e6, most=1e6)], ...],
            Field(min_length=1, max_length=3),
        ]
        | None
    ) = None
    std: (
        Annotated[
            tuple[Annotated[float, Range(least=1e-6, most=1e6)], ...],
            Field(min_length=1, max_length=3),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std must be given together, a number for each channel")


@dataclass(frozen=True, kw_only=True)
class FileWeights(External):
    """A safetensors file. sha256: of the file, checked where it is given."""

    source: Literal["file"]
    path: Text
    sha256: Sha256 | None = None


@dataclass(frozen=True, kw_only=True)
class HubWeights(External):
    """A commit of a repository on the model hub."""

    source: Literal["hub"]
    repo: Text
    revision: Revision


@dataclass(frozen=True, kw_only=True)
class EarlierRun:
    """``results/pretrain`` or ``results/export`` of another run.

    sha256: of ``model.safetensors`` in it, checked where it is given.
    """

    source: Literal["run"]
    path: Text
    sha256: Sha256 | None = None


@dataclass(frozen=True, kw_only=True)
class Projector:
    """Units of the hidden layers and of the output."""

    hidden_dim: Width = 512
    dim: Several = 64


@dataclass(frozen=True, kw_only=True)
class Pretrain(TrainSettings):
    """All keys of the section.

    external: weights that are evaluated instead of trained ones.
    initial: weights that training starts from; None: random ones.
    crop_pct, interpolation: how the input of an evaluation is cut (``prosmin.data.frame.Frame``).
        None: as the configuration of external or initial weights says, else 1 and bilinear.
    """

    splits: Annotated[tuple[SplitName, ...], Once, Field(min_length=1)] = ("train", "val")
    channels: Annotated[Literal[1, 3], BeforeValidator(refuse_bool)] = 3
    stream: Flag = False
    encoder: Encoder
    external: Annotated[FileWeights | HubWeights, Discriminator("source")] | None = None
    initial: Annotated[FileWeights | HubWeights | EarlierRun, Discriminator("source")] | None = None
    projector: Projector = Projector()
    objective: Annotated[Union[tuple(TRAINED.values())], Discriminator("name")] = ProSMIN()
    precision: Literal["fp32", "bf16"] = "fp32"
    crop_pct: Annotated[float, Range(least=SMALLEST_SHARE, most=1)] | None = None
    interpolation: Interpolation | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.external and self.initial:
            raise Refused("initial", asdict(self.initial), "it needs training; external has none")

    @property
    def shown(self) -> Mapping[str, str]:
        """The names on pages of the two encoders, by ``prosmin.common.encoders.ENCODERS``."""
        return CONTINUED if self.initial else SHOWN
