"""``params.yaml`` as typed, validated objects.

Every section is named after the stage that reads it. ``load`` reports all that is wrong in one go, a line
each: dotted key, value, what is allowed, and the nearest valid name for a misspelt one. A long module, because it mirrors
one file: a key stands here as it stands there.
"""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
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
from pydantic_core import to_jsonable_python

from prosmin.common.errors import ConfigError, UserError, listed, nearest, printable, shown
from stages.common import declared
from stages.common.declared import PARAMS
from stages.params.yaml_file import first, read, sentences


def _refuse_bool(value: Any) -> Any:
    """YAML reads ``yes`` and ``on`` as true, which Python counts as 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _refuse_point(value: Any) -> Any:
    """A number such as 4.0 is a slip where a whole one is asked for, and another key to DVC than 4."""
    if isinstance(value, float):
        raise ValueError("must be a whole number, written without a point")
    return _refuse_bool(value)


def _plain(value: Any) -> Any:
    """What JSON has, with numbers that a network may be made of."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("must have text for keys")
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, int | float) and not abs(value) <= MOST:
        raise ValueError(f"must hold numbers of at most {MOST} in size, not {shown(value)}")
    if not isinstance(value, str | int | float | None):
        raise ValueError(
            f"must hold numbers, text, true, false, null, lists and sections, not {shown(value)}"
        )
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


# Every number has a largest value. Those that size an allocation or a loop have one here, far above all that is of use and
# below what no machine can do: a slip is then one line at once, and no crash after hours.
MOST = 2**16  # units of a layer, images of a batch
Whole = Annotated[int, BeforeValidator(_refuse_point)]
Real = Annotated[
    float, BeforeValidator(_refuse_bool)
]  # finite (``Section``), to be bounded where it is used
Fraction = Annotated[Real, Field(ge=0, lt=1)]
Share = Annotated[Real, Field(gt=0, le=1)]
Probability = Annotated[Real, Field(ge=0, le=1)]
Percent = Annotated[Real, Field(gt=0, le=100)]
Positive = Annotated[Real, Field(gt=0, le=1e6)]
NonNegative = Annotated[Real, Field(ge=0, le=1e6)]
Strength = Annotated[Real, Field(ge=0, le=100)]  # of colour jitter, of noise
Temperature = Annotated[Real, Field(ge=1e-4, le=1e4)]
Count = Annotated[Whole, Field(ge=1, le=10**9)]  # of what there is: images, labels, neighbours
Epochs = Annotated[Whole, Field(ge=1, le=10**6)]
Width = Annotated[Whole, Field(ge=1, le=MOST)]
Several = Annotated[Whole, Field(ge=2, le=MOST)]
Pixels = Annotated[Whole, Field(ge=4, le=4096)]
Draws = Annotated[Whole, Field(ge=3, le=1000)]
Seed = Annotated[Whole, Field(ge=0, lt=2**31)]
Bootstrap = Annotated[Whole, Field(ge=100, le=10**6)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[
    str, Field(min_length=1, max_length=2000), _matching("[^\x00-\x1f\x7f]*", "text on one line")
]
Grid = Field(min_length=1, max_length=100)
Labels = Annotated[tuple[Count, ...], Field(max_length=20)]
Percents = Annotated[tuple[Percent, ...], Field(max_length=20)]
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
DatasetName = Annotated[
    str, _matching("[a-z0-9_]{1,64}", "a name of a-z, 0-9 and _, of at most 64")
]
AnyDataset = Annotated[Builtin | Folder | Parquet | Hub, Discriminator("source")]


# --- pretrain -------------------------------------------------------------------------------------


class Encoder(Section):
    name: Text
    cifar_stem: Flag = False
    kwargs: Annotated[dict[str, Any], Field(max_length=100), AfterValidator(_plain)] = {}


class External(Section):
    """What the two sources share. mean, std: of the input, per channel, where no ``config.json`` tells them."""

    mean: (
        Annotated[
            tuple[Annotated[Real, Field(ge=-1e6, le=1e6)], ...], Field(min_length=1, max_length=3)
        ]
        | None
    ) = None
    std: (
        Annotated[
            tuple[Annotated[Real, Field(ge=1e-6, le=1e6)], ...], Field(min_length=1, max_length=3)
        ]
        | None
    ) = None

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
    hidden_dim: Width = 512
    dim: Several = 64


class Target(Section):
    normalise: Literal["none", "centre", "standardise", "whiten"] = "whiten"
    shrinkage: Fraction = 0.1
    noise: Strength = 0.0
    momentum: tuple[Probability, Probability] = (0.0, 1.0)


Samples = Annotated[Whole, Field(ge=2, le=1024)]
LogSigma = Annotated[Real, Field(ge=-30, le=30)]


class Objective(Section):
    """Beside the name, the keys of ProSMIN; those of the others are under ``Baselines``."""

    name: Literal[
        "prosmin", "published", "byol", "simsiam", "dino", "simclr", "mocov3", "vicreg"
    ] = "prosmin"
    rule: Literal["crps", "energy", "kernel", "log", "distance", "point"] = "crps"
    estimator: Literal["closed_form", "monte_carlo"] = "closed_form"
    samples: Samples = 4
    lambda_: Real = Field(default=1.0, alias="lambda")
    log_sigma: Annotated[tuple[LogSigma, LogSigma], Rising] = (-4.0, 2.0)
    bandwidth: Temperature = 1.0

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


class Nothing(Section):
    pass


class Published(Section):
    lambda_: Annotated[Real, Field(gt=0, lt=1.4142)] = Field(default=1.2, alias="lambda")
    samples: Samples = 4
    bottleneck_dim: Width = 256
    centre_momentum: Probability = 0.85


class SimSiam(Section):
    predictor_dim: Width = 32


class Dino(Section):
    prototypes: Several = 1024
    temperature: Temperature = 0.1
    target_temperature: Temperature = 0.04
    centre_momentum: Probability = 0.9


class Contrastive(Section):
    temperature: Temperature = 0.2


class VicReg(Section):
    invariance: NonNegative = 25.0
    variance: NonNegative = 25.0
    covariance: NonNegative = 1.0


class Baselines(Section):
    """Keys of the objectives that are not ProSMIN, by name. Each objective is there, since ``dvc.yaml`` names the chosen one."""

    prosmin: Nothing = Nothing()
    byol: Nothing = Nothing()
    published: Published = Published()
    simsiam: SimSiam = SimSiam()
    dino: Dino = Dino()
    simclr: Contrastive = Contrastive()
    mocov3: Contrastive = Contrastive()
    vicreg: VicReg = VicReg()


Aspect = Annotated[Real, Field(ge=0.01, le=100)]


class LocalViews(Section):
    """count: of each size."""

    count: Annotated[Whole, Field(ge=0, le=64)] = 0
    size: Annotated[
        tuple[Annotated[Whole, Field(ge=1, le=4096)], ...], BeforeValidator(_listed), Once
    ] = Field(default=(96,), min_length=1, max_length=8)
    scale: Annotated[tuple[Share, Share], NotFalling] = (0.05, 0.4)


class Views(Section):
    scale: Annotated[tuple[Share, Share], NotFalling] = (0.2, 1.0)
    ratio: Annotated[tuple[Aspect, Aspect], NotFalling] = (0.75, 1.3333)
    flip: Probability = 0.5
    rotate: Annotated[Real, Field(ge=0, le=180)] = 0.0
    jitter: Probability = 0.8
    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.2
    hue: Annotated[Real, Field(ge=0, le=0.5)] = 0.1
    grayscale: Probability = 0.2
    blur: Probability = 0.5
    solarize: Probability = 0.1
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    local: LocalViews = LocalViews()

    @model_validator(mode="after")
    def _turns(self) -> "Views":
        if self.interpolation == "bicubic" and self.rotate > 0:
            raise ValueError(
                f"interpolation is 'bicubic', which goes with rotate 0 only; rotate is {self.rotate:g}"
            )
        return self


class Pretrain(Section):
    splits: Annotated[tuple[SplitName, ...], Once] = Field(default=("train", "val"), min_length=1)
    image_size: Pixels
    channels: Annotated[Literal[1, 3], BeforeValidator(_refuse_bool)] = 3
    stream: Flag = False
    encoder: Encoder
    external: Annotated[FileWeights | HubWeights, Discriminator("source")] | None = None
    projector: Projector = Projector()
    target: Target = Target()
    objective: Objective = Objective()
    baselines: Baselines = Baselines()
    views: Views = Views()
    epochs: Epochs
    batch_size: Several
    lr: Annotated[Positive, Field(le=1000)]
    weight_decay: NonNegative = 0.05
    weight_decay_end: NonNegative | None = None
    warmup_epochs: NonNegative = 5
    clip_norm: Positive | None = 3.0
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: Width = 1
    channels_last: Flag = False
    compile: Flag = False


# --- evaluation -----------------------------------------------------------------------------------


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
    lr: Annotated[tuple[Annotated[Positive, Field(le=1000)], ...], Once] = Field(
        default=(0.001,), min_length=1, max_length=20
    )
    epochs: Epochs = 20
    scratch_epochs: Annotated[tuple[Epochs, ...], Once, Field(max_length=20)] = ()
    batch_size: Several = 64
    steps: Annotated[Whole, Field(ge=0, le=10**6)] = 100
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
    views: Annotated[Whole, Field(ge=2, le=64)] = 4
    corruptions: Annotated[tuple[CorruptionType, ...], Once] = ()
    severity: Annotated[Whole, Field(ge=1, le=5)] = 3
    bootstrap: Bootstrap = 1000


class Corrupt(Section):
    source: Literal["generated", "folders", "arrays"] = "generated"
    path: Text | None = None
    frost: Text | None = None
    types: Annotated[tuple[CorruptionType, ...], AfterValidator(_spread), Once] = Field(
        min_length=1
    )
    severities: Annotated[tuple[Annotated[Whole, Field(ge=1, le=5)], ...], Once] = Field(
        default=(1, 2, 3, 4, 5), min_length=1
    )
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


class Report(Section):
    examples: Annotated[Whole, Field(ge=1, le=32)] = 8


class Export(Section):
    name: Annotated[
        str,
        Field(max_length=96),
        _matching(
            r"[A-Za-z0-9][A-Za-z0-9._-]*",
            "of letters, digits, '.', '_' and '-', such as vit-small-prosmin",
        ),
    ] = "prosmin-encoder"
    license: Text | None = None


class Params(Section):
    dataset: str
    seed: Seed = 0
    fetch: dict[DatasetName, AnyDataset] = Field(min_length=1, max_length=1000)
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


def _misnamed(content: dict[Any, Any]) -> Iterator[str]:
    """A line for every dataset named where it cannot be: not under ``fetch``, or trained on and tested for novelty.

    It reads the file's own content, so that these faults are reported together with those of the fields.
    """

    def inside(section: str, key: str, kind: type) -> Any:
        found = content.get(section)
        found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, kind) else kind()

    known, trained = content.get("fetch"), content.get("dataset")
    if not isinstance(known, dict) or not known:
        return  # one fault, not one for each name
    named = [("dataset", trained)]
    named += [(f"ood.sets.{printable(name)}", name) for name in inside("ood", "sets", dict)]
    named += [
        (f"transfer.targets.{place}", name)
        for place, name in enumerate(inside("transfer", "targets", list))
    ]
    named += [
        (f"shift.sets.{place}", name) for place, name in enumerate(inside("shift", "sets", list))
    ]
    named += [
        (f"finetune.datasets.{place}", name)
        for place, name in enumerate(inside("finetune", "datasets", list))
    ]
    for key, name in named:
        if isinstance(name, str) and name not in known:
            allowed = f"allowed, as they stand under fetch: {listed(known)}"
            yield f"{key} is {shown(name)}; {allowed}{nearest(name, known)}"
        elif name == trained and key != "dataset" and not key.startswith("finetune"):
            yield f"{key} is {shown(name)}, the dataset that is trained on; name another"


def _left_out(content: dict[Any, Any], graph: Path) -> Iterator[str]:
    """One line for all keys that have a default here and that ``graph``, a dvc.yaml, names: DVC knows no defaults, and would
    say so when their stage comes, which is after pretraining."""
    found: dict[str, str] = {}
    for key in declared.asked_for(content, graph):
        section, model, path = content, Params, ""
        for step in key.split("."):
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            if not isinstance(section, dict) or step not in fields:
                break
            path = f"{path}.{step}" if path else step
            if step not in section:
                if not fields[step].is_required():
                    found[path] = _as_yaml(fields[step].default)
                break
            section, model = section[step], fields[step].annotation
            if not (isinstance(model, type) and issubclass(model, BaseModel)):
                break
    if found:
        keys = ", ".join(f"{key} (default: {value})" for key, value in found.items())
        verb, object_ = ("is", "it") if len(found) == 1 else ("are", "them")
        yield f"{keys} {verb} missing; {graph.name} asks for {object_}, so write {object_} down"


def _as_yaml(value: Any) -> str:
    plain = to_jsonable_python(value, by_alias=True)
    return (
        yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10**6)
        .removesuffix("...\n")
        .strip()
    )


def load(path: str | Path = PARAMS) -> Params:
    """Read and validate ``path``; raise ``UserError`` with one line for each thing that is wrong."""
    path = Path(path)
    content = read(path)
    lines, params = (
        chain(_left_out(content, path.with_name(declared.GRAPH.name)), _misnamed(content)),
        None,
    )
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        lines = chain(sentences(error, Params), lines)
    if found := first(lines):
        raise UserError("\n".join(f"{path}: {line}" for line in found))
    return params
