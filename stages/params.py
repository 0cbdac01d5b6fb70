"""``params.yaml`` as typed, validated objects.

Every section is named after the stage that reads it. ``load`` reports all that is wrong in one go, a line
each: dotted key, value, what is allowed, and the nearest valid name for a misspelt one. A long module, because it mirrors
one file: a key stands here as it stands there.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from prosmin.errors import ConfigError, UserError, nearest
from stages.reading import read, sentences, shown

PARAMS = Path("params.yaml")


def _refuse_bool(value: Any) -> Any:
    """YAML reads ``yes`` and ``on`` as true, which Python counts as 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _listed(value: Any) -> Any:
    """One value for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _matching(pattern: str, says: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must be {says}")
        return value

    return AfterValidator(check)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("must not hold anything twice")
    return values


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] >= ends[1]:
        raise ValueError("must be [low, high] with low < high")
    return ends


def _not_falling(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("must be [low, high] with low <= high")
    return ends


Whole = Annotated[int, BeforeValidator(_refuse_bool)]
Real = Annotated[float, BeforeValidator(_refuse_bool)]
Fraction = Annotated[Real, Field(ge=0, lt=1)]
Share = Annotated[Real, Field(gt=0, le=1)]
Probability = Annotated[Real, Field(ge=0, le=1)]
Percent = Annotated[Real, Field(gt=0, le=100)]
Positive = Annotated[Real, Field(gt=0)]
NonNegative = Annotated[Real, Field(ge=0)]
Count = Annotated[Whole, Field(ge=1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**31)]
Bootstrap = Annotated[Whole, Field(ge=100)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]
Once = AfterValidator(_distinct)  # for lists in which a repetition is a slip
Rising = AfterValidator(_rising)
NotFalling = AfterValidator(_not_falling)
Revision = Annotated[str, _matching("[0-9a-f]{40}", "a full commit id: 40 digits of 0-9 and a-f")]
SplitName = Literal["train", "val", "test"]
Transform = Literal["none", "invert", "rotate90", "permute", "noise", "halves"]
# As prosmin.corruptions has them, which this module does not import since it takes torch with it.
BENCHMARK = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
GROUPS = {"benchmark": BENCHMARK, "extra": EXTRA}
CorruptionType = Literal[*BENCHMARK, *EXTRA, *GROUPS]


def _spread(types: tuple[str, ...]) -> tuple[str, ...]:
    """The types of the groups in place of their names."""
    return tuple(name for each in types for name in GROUPS.get(each, (each,)))


class Section(BaseModel):
    """Unknown keys are errors, as are NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- fetch ----------------------------------------------------------------------------------------


class Dataset(Section):
    """What every source shares."""

    val_fraction: Fraction = 0.2
    test_fraction: Probability = 0.2  # 1: all images, for a set that is evaluated on alone
    limit: dict[SplitName, Count] = {}
    max_unreadable: Probability = 0.01
    transform: Transform = "none"

    @model_validator(mode="after")
    def _leaves_train(self) -> "Dataset":
        if self.test_fraction < 1 <= self.val_fraction + self.test_fraction:
            raise ValueError(
                "val_fraction and test_fraction must add up to less than 1, or nothing is left to train on"
            )
        return self


class Builtin(Dataset):
    source: Literal["builtin"]
    name: Literal["digits", "patches"]
    patch: Annotated[Whole, Field(ge=8, le=128)] = 16


class Folder(Dataset):
    source: Literal["folder"]
    path: Text


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
DatasetName = Annotated[str, _matching("[a-z0-9_]+", "a name of a-z, 0-9 and _")]
AnyDataset = Annotated[Builtin | Folder | Parquet | Hub, Discriminator("source")]


# --- pretrain -------------------------------------------------------------------------------------


class Encoder(Section):
    name: Text
    cifar_stem: Flag = False
    kwargs: dict[str, Any] = {}


class External(Section):
    """What the two sources share. mean, std: of the input, per channel, where no ``config.json`` tells them."""

    mean: Annotated[tuple[Real, ...], Field(min_length=1)] | None = None
    std: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _both(self) -> "External":
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std must be given together, a number for each channel")
        return self


class FileWeights(External):
    source: Literal["file"]
    path: Text
    sha256: Annotated[str, _matching("[0-9a-f]{64}", "64 digits of 0-9 and a-f")] | None = None


class HubWeights(External):
    source: Literal["hub"]
    repo: Text
    revision: Revision


class Projector(Section):
    hidden_dim: Count = 512
    dim: Annotated[Whole, Field(ge=2)] = 64


class Target(Section):
    normalise: Literal["none", "centre", "standardise", "whiten"] = "whiten"
    shrinkage: Fraction = 0.1
    noise: NonNegative = 0.0
    momentum: tuple[Probability, Probability] = (0.0, 1.0)


class Objective(Section):
    """Beside the name, the keys of ProSMIN; those of the others are under ``Baselines``."""

    name: Literal["prosmin", "published", "byol", "simsiam", "dino", "simclr", "mocov3", "vicreg"] = "prosmin"
    rule: Literal["crps", "energy", "kernel", "log", "distance", "point"] = "crps"
    estimator: Literal["closed_form", "monte_carlo"] = "closed_form"
    samples: Annotated[Whole, Field(ge=2)] = 4
    lambda_: Real = Field(default=1.0, alias="lambda")
    log_sigma: Annotated[tuple[Real, Real], Rising] = (-4.0, 2.0)
    bandwidth: Positive = 1.0

    @field_validator("lambda_")
    @classmethod
    def _bounded(cls, value: float) -> float:
        if value != 1.0:  # the default must not cost an import of torch in every stage
            from prosmin.scoring import check_lambda

            try:
                check_lambda(value)
            except ConfigError as fault:
                raise ValueError(fault.allowed) from None
        return value

    @model_validator(mode="after")
    def _exists(self) -> "Objective":
        if self.rule != "crps":  # which goes with everything
            from prosmin.scoring import check_rule

            try:
                check_rule(self.rule, self.lambda_, self.estimator)
            except ConfigError as fault:
                raise ValueError(str(fault)) from None
        return self


class Published(Section):
    lambda_: Annotated[Real, Field(gt=0, lt=1.4142)] = Field(default=1.2, alias="lambda")
    samples: Annotated[Whole, Field(ge=2)] = 4
    bottleneck_dim: Count = 256
    centre_momentum: Probability = 0.85


class SimSiam(Section):
    predictor_dim: Count = 32


class Dino(Section):
    prototypes: Annotated[Whole, Field(ge=2)] = 1024
    temperature: Positive = 0.1
    target_temperature: Positive = 0.04
    centre_momentum: Probability = 0.9


class Contrastive(Section):
    temperature: Positive = 0.2


class VicReg(Section):
    invariance: NonNegative = 25.0
    variance: NonNegative = 25.0
    covariance: NonNegative = 1.0


class Baselines(Section):
    """Keys of the objectives that are not ProSMIN, by name; ``byol`` has none."""

    published: Published = Published()
    simsiam: SimSiam = SimSiam()
    dino: Dino = Dino()
    simclr: Contrastive = Contrastive()
    mocov3: Contrastive = Contrastive()
    vicreg: VicReg = VicReg()


class LocalViews(Section):
    """count: of each size."""

    count: Annotated[Whole, Field(ge=0)] = 0
    size: Annotated[tuple[Count, ...], BeforeValidator(_listed), Once] = Field(default=(96,), min_length=1)
    scale: Annotated[tuple[Share, Share], NotFalling] = (0.05, 0.4)


class Views(Section):
    scale: Annotated[tuple[Share, Share], NotFalling] = (0.2, 1.0)
    ratio: Annotated[tuple[Positive, Positive], NotFalling] = (0.75, 1.3333)
    flip: Probability = 0.5
    rotate: Annotated[Real, Field(ge=0, le=180)] = 0.0
    jitter: Probability = 0.8
    brightness: NonNegative = 0.4
    contrast: NonNegative = 0.4
    saturation: NonNegative = 0.2
    hue: Annotated[Real, Field(ge=0, le=0.5)] = 0.1
    grayscale: Probability = 0.2
    blur: Probability = 0.5
    solarize: Probability = 0.1
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    local: LocalViews = LocalViews()

    @model_validator(mode="after")
    def _turns(self) -> "Views":
        if self.interpolation == "bicubic" and self.rotate > 0:
            raise ValueError(f"interpolation is 'bicubic', which goes with rotate 0 only; rotate is {self.rotate:g}")
        return self


class Pretrain(Section):
    splits: Annotated[tuple[SplitName, ...], Once] = Field(default=("train", "val"), min_length=1)
    image_size: Annotated[Whole, Field(ge=4)]
    channels: Annotated[Literal[1, 3], BeforeValidator(_refuse_bool)] = 3
    stream: Flag = False
    encoder: Encoder
    external: Annotated[FileWeights | HubWeights, Discriminator("source")] | None = None
    projector: Projector = Projector()
    target: Target = Target()
    objective: Objective = Objective()
    baselines: Baselines = Baselines()
    views: Views = Views()
    epochs: Count
    batch_size: Annotated[Whole, Field(ge=2)]
    lr: Positive
    weight_decay: NonNegative = 0.05
    weight_decay_end: NonNegative | None = None
    warmup_epochs: NonNegative = 5
    clip_norm: Positive | None = 3.0
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: Count = 1
    channels_last: Flag = False
    compile: Flag = False


# --- evaluation -----------------------------------------------------------------------------------


class Embed(Section):
    batch_size: Count = 512


class Linear(Section):
    l2: Annotated[tuple[NonNegative, ...], Once] = Field(min_length=1)
    bootstrap: Bootstrap = 1000


class Knn(Section):
    k: Annotated[tuple[Count, ...], Once] = Field(min_length=1)
    temperature: Annotated[tuple[Positive, ...], Once] = Field(min_length=1)
    bootstrap: Bootstrap = 1000


class Lowshot(Section):
    per_class: Annotated[tuple[Count, ...], Once] = (10,)
    percent: Annotated[tuple[Percent, ...], Once] = (1, 10)
    draws: Annotated[Whole, Field(ge=3)] = 5
    l2: Positive = 0.1

    @model_validator(mode="after")
    def _asks_something(self) -> "Lowshot":
        if not self.per_class and not self.percent:
            raise ValueError("per_class and percent must not both be empty")
        return self


class Finetune(Section):
    datasets: Annotated[tuple[str, ...], Once] = ()
    lr: Annotated[tuple[Positive, ...], Once] = Field(default=(0.001,), min_length=1)
    epochs: Count = 20
    batch_size: Annotated[Whole, Field(ge=2)] = 64
    steps: Annotated[Whole, Field(ge=0)] = 100
    weight_decay: NonNegative = 0.05
    per_class: Annotated[tuple[Count, ...], Once] = ()
    percent: Annotated[tuple[Percent, ...], Once] = ()
    draws: Annotated[Whole, Field(ge=3)] = 3
    bootstrap: Bootstrap = 1000


class Ood(Section):
    sets: dict[str, Literal["near", "far"]] = Field(min_length=1)
    k: Count = 10
    temperature: Positive = 1.0
    shrinkage: Fraction = 0.1
    vim_dim: Count | None = None
    bootstrap: Bootstrap = 1000


class Prediction(Section):
    views: Annotated[Whole, Field(ge=2)] = 4
    corruptions: Annotated[tuple[CorruptionType, ...], Once] = ()
    severity: Annotated[Whole, Field(ge=1, le=5)] = 3
    bootstrap: Bootstrap = 1000


class Corrupt(Section):
    source: Literal["generated", "folders", "arrays"] = "generated"
    path: Text | None = None
    frost: Text | None = None
    types: Annotated[tuple[CorruptionType, ...], AfterValidator(_spread), Once] = Field(min_length=1)
    severities: Annotated[tuple[Annotated[Whole, Field(ge=1, le=5)], ...], Once] = Field(
        default=(1, 2, 3, 4, 5), min_length=1
    )
    reference: Text = "random"
    batch_size: Count = 512
    bootstrap: Bootstrap = 1000

    @model_validator(mode="after")
    def _fits_together(self) -> "Corrupt":
        if self.source != "generated" and self.path is None:
            raise ValueError(f"path is missing; source {self.source} reads the corrupted images from there")
        if self.source == "generated" and self.path is not None:
            raise ValueError(f"path is {self.path!r}; it is read by source folders or arrays only")
        if self.source != "generated" and self.frost is not None:
            raise ValueError(f"frost is {self.frost!r}; it is read by source generated only")
        if self.reference == "alexnet" and len(self.severities) < 5:
            raise ValueError(
                "reference is 'alexnet', whose published errors are means over five severities; ask for all"
            )
        return self


class Shift(Section):
    sets: Annotated[tuple[str, ...], Once] = ()
    bootstrap: Bootstrap = 1000


class Transfer(Section):
    targets: Annotated[tuple[str, ...], Once]
    l2: Annotated[tuple[NonNegative, ...], Once] = Field(min_length=1)
    bootstrap: Bootstrap = 1000


class Report(Section):
    examples: Annotated[Whole, Field(ge=1, le=32)] = 8


class Export(Section):
    name: Annotated[
        str,
        _matching(r"[A-Za-z0-9][A-Za-z0-9._-]*", "of letters, digits, '.', '_' and '-', such as vit-small-prosmin"),
    ] = "prosmin-encoder"
    license: str | None = None


class Params(Section):
    dataset: str
    seed: Seed = 0
    fetch: dict[DatasetName, AnyDataset] = Field(min_length=1)
    pretrain: Pretrain
    embed: Embed = Embed()
    linear: Linear
    knn: Knn
    lowshot: Lowshot = Lowshot()
    finetune: Finetune = Finetune()
    ood: Ood
    prediction: Prediction = Prediction()
    corrupt: Corrupt
    shift: Shift = Shift()
    transfer: Transfer
    export: Export = Export()
    report: Report = Report()


# --- reading --------------------------------------------------------------------------------------


def _misnamed(content: dict[Any, Any]) -> list[str]:
    """A line for every dataset named where it cannot be: not under ``fetch``, or trained on and tested for novelty.

    It reads the file's own content, so that these faults are reported together with those of the fields.
    """

    def inside(section: str, key: str, kind: type) -> Any:
        found = content.get(section)
        found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, kind) else kind()

    known, trained = content.get("fetch"), content.get("dataset")
    if not isinstance(known, dict) or not known:
        return []  # one fault, not one for each name
    named = [("dataset", trained)]
    named += [(f"ood.sets.{name}", name) for name in inside("ood", "sets", dict)]
    named += [(f"transfer.targets.{place}", name) for place, name in enumerate(inside("transfer", "targets", list))]
    named += [(f"shift.sets.{place}", name) for place, name in enumerate(inside("shift", "sets", list))]
    named += [(f"finetune.datasets.{place}", name) for place, name in enumerate(inside("finetune", "datasets", list))]
    allowed = ", ".join(map(str, known))
    lines = []
    for key, name in named:
        if isinstance(name, str) and name not in known:
            lines.append(f"{key} is {shown(name)}; allowed, as they stand under fetch: {allowed}{nearest(name, known)}")
        elif name == trained and key != "dataset" and not key.startswith("finetune"):
            lines.append(f"{key} is {shown(name)}, the dataset that is trained on; name another")
    return lines


def load(path: str | Path = PARAMS) -> Params:
    """Read and validate ``path``; raise ``UserError`` with one line for each thing that is wrong."""
    content = read(Path(path))
    lines, params = _misnamed(content), None
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        lines = sentences(error, Params) + lines
    if params is None or lines:
        raise UserError("\n".join(f"{path}: {line}" for line in lines))
    return params
