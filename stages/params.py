"""``params.yaml`` as typed, validated objects.

Every section is named after the stage that reads it. ``load`` reports all that is wrong in one go, a line
each: dotted key, value, what is allowed, and the nearest valid name for a misspelt one.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, ValidationError, field_validator, model_validator

from prosmin.errors import UserError, nearest

PARAMS = Path("params.yaml")


def _refuse_bool(value: Any) -> Any:
    """YAML reads ``yes`` and ``on`` as true, which Python counts as 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Whole = Annotated[int, BeforeValidator(_refuse_bool)]
Real = Annotated[float, BeforeValidator(_refuse_bool)]
Fraction = Annotated[Real, Field(ge=0, lt=1)]
Share = Annotated[Real, Field(gt=0, le=1)]
Probability = Annotated[Real, Field(ge=0, le=1)]
Positive = Annotated[Real, Field(gt=0)]
NonNegative = Annotated[Real, Field(ge=0)]
Count = Annotated[Whole, Field(ge=1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**31)]
Bootstrap = Annotated[Whole, Field(ge=100)]
SplitName = Literal["train", "val", "test"]
Transform = Literal["none", "invert", "rotate90", "permute", "noise", "halves"]
CorruptionType = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "speckle_noise",
    "gaussian_blur",
    "defocus_blur",
    "zoom_blur",
    "fog",
    "brightness",
    "contrast",
    "saturate",
    "pixelate",
    "jpeg_compression",
]


class Section(BaseModel):
    """Unknown keys are errors, as are NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- fetch ----------------------------------------------------------------------------------------


class Dataset(Section):
    """What every source shares."""

    val_fraction: Fraction = 0.2
    test_fraction: Fraction = 0.2
    limit: dict[SplitName, Count] = {}
    max_unreadable: Probability = 0.01
    transform: Transform = "none"


class Builtin(Dataset):
    source: Literal["builtin"]
    name: Literal["digits", "patches"]
    patch: Annotated[Whole, Field(ge=8, le=128)] = 16


class Folder(Dataset):
    source: Literal["folder"]
    path: str


class Parquet(Dataset):
    source: Literal["parquet"]
    files: dict[SplitName, str] = Field(min_length=1)
    image: str = "image"
    label: str | None = "label"


class Hub(Dataset):
    source: Literal["hub"]
    repo: str
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    config: str | None = None
    splits: dict[SplitName, str] = Field(default={"train": "train", "test": "test"}, min_length=1)
    image: str = "image"
    label: str | None = "label"


AnyDataset = Annotated[Builtin | Folder | Parquet | Hub, Discriminator("source")]


# --- pretrain -------------------------------------------------------------------------------------


class Encoder(Section):
    name: str
    cifar_stem: bool = False
    kwargs: dict[str, Any] = {}


class Projector(Section):
    hidden_dim: Count = 512
    dim: Annotated[Whole, Field(ge=2)] = 64


class Target(Section):
    normalise: Literal["none", "centre", "standardise", "whiten"] = "whiten"
    shrinkage: Annotated[Real, Field(ge=0, lt=1)] = 0.1
    momentum: tuple[Probability, Probability] = (0.0, 1.0)


class Objective(Section):
    rule: Literal["crps"] = "crps"
    estimator: Literal["closed_form", "monte_carlo"] = "closed_form"
    samples: Annotated[Whole, Field(ge=2)] = 4
    lambda_: Real = Field(default=1.0, alias="lambda")
    log_sigma: tuple[Real, Real] = (-4.0, 2.0)

    @field_validator("lambda_")
    @classmethod
    def _bounded(cls, value: float) -> float:
        if value != 1.0:  # the default must not cost an import of torch in every stage
            from prosmin.scoring import check_lambda

            try:
                check_lambda(value)
            except UserError as fault:
                raise ValueError(str(fault)) from None
        return value

    @field_validator("log_sigma")
    @classmethod
    def _ordered(cls, value: tuple[Real, Real]) -> tuple[Real, Real]:
        if value[0] >= value[1]:
            raise ValueError("must be [low, high] with low < high")
        return value


class LocalViews(Section):
    count: Annotated[Whole, Field(ge=0)] = 0
    size: Count = 96
    scale: tuple[Share, Share] = (0.05, 0.4)


class Views(Section):
    scale: tuple[Share, Share] = (0.2, 1.0)
    ratio: tuple[Positive, Positive] = (0.75, 1.3333)
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
    local: LocalViews = LocalViews()

    @field_validator("scale", "ratio")
    @classmethod
    def _ordered(cls, value: tuple[Real, Real]) -> tuple[Real, Real]:
        if value[0] > value[1]:
            raise ValueError("must be [low, high] with low <= high")
        return value


class Pretrain(Section):
    splits: tuple[SplitName, ...] = Field(default=("train", "val"), min_length=1)
    image_size: Annotated[Whole, Field(ge=4)]
    channels: Literal[1, 3] = 3
    encoder: Encoder
    projector: Projector = Projector()
    target: Target = Target()
    objective: Objective = Objective()
    views: Views = Views()
    epochs: Count
    batch_size: Annotated[Whole, Field(ge=2)]
    lr: Positive
    weight_decay: NonNegative = 0.05
    warmup_epochs: NonNegative = 5
    clip_norm: Positive | None = 3.0
    precision: Literal["fp32", "bf16"] = "fp32"


# --- evaluation -----------------------------------------------------------------------------------


class Embed(Section):
    batch_size: Count = 512


class Linear(Section):
    l2: tuple[NonNegative, ...] = Field(min_length=1)
    bootstrap: Bootstrap = 1000


class Knn(Section):
    k: tuple[Count, ...] = Field(min_length=1)
    temperature: tuple[Positive, ...] = Field(min_length=1)
    bootstrap: Bootstrap = 1000


class Lowshot(Section):
    per_class: tuple[Count, ...] = (10,)
    percent: tuple[Annotated[Real, Field(gt=0, le=100)], ...] = (1, 10)
    draws: Annotated[Whole, Field(ge=3)] = 5
    l2: Positive = 1.0


class Ood(Section):
    sets: dict[str, Literal["near", "far"]] = Field(min_length=1)
    k: Count = 10
    temperature: Positive = 1.0
    shrinkage: Fraction = 0.1
    bootstrap: Bootstrap = 1000


class Corrupt(Section):
    types: tuple[CorruptionType, ...] = Field(min_length=1)
    severities: tuple[Annotated[Whole, Field(ge=1, le=5)], ...] = Field(default=(1, 2, 3, 4, 5), min_length=1)
    batch_size: Count = 512


class Transfer(Section):
    targets: tuple[str, ...]
    l2: tuple[NonNegative, ...] = Field(min_length=1)
    bootstrap: Bootstrap = 1000


class Report(Section):
    examples: Annotated[Whole, Field(ge=1, le=32)] = 8


class Params(Section):
    dataset: str
    seed: Seed = 0
    fetch: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], AnyDataset] = Field(min_length=1)
    pretrain: Pretrain
    embed: Embed = Embed()
    linear: Linear
    knn: Knn
    lowshot: Lowshot = Lowshot()
    ood: Ood
    corrupt: Corrupt
    transfer: Transfer
    report: Report = Report()

    @model_validator(mode="after")
    def _names_agree(self) -> "Params":
        """Every dataset that a stage names stands under ``fetch``. All faults are reported together."""
        faults = [
            f"{key} is {name!r}; allowed: {', '.join(self.fetch)}{nearest(name, self.fetch)}"
            for key, name in [
                ("dataset", self.dataset),
                *((f"ood.sets.{name}", name) for name in self.ood.sets),
                *((f"transfer.targets.{place}", name) for place, name in enumerate(self.transfer.targets)),
            ]
            if name not in self.fetch
        ]
        if self.dataset in self.ood.sets:
            faults.append(f"ood.sets.{self.dataset} is the in-distribution dataset itself; name another")
        if self.dataset in self.transfer.targets:
            faults.append(f"transfer.targets holds {self.dataset!r}, the dataset trained on; name another")
        if faults:
            raise ValueError(FAULT_BREAK.join(faults))
        return self


# --- reading --------------------------------------------------------------------------------------

FAULT_BREAK = "\n"


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice (plain YAML keeps the last one silently)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    """The keys allowed in the section that an unknown key was found in."""
    model: Any = Params
    for step in location[:-1]:
        if isinstance(model, type) and issubclass(model, BaseModel) and step in _names(model):
            model = _names(model)[step]
        else:
            model = next((found for found in _models(model) if _source(found) == step), model)
    found = [model] if isinstance(model, type) else _models(model)
    return [name for each in found for name in _names(each)]


def _names(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _source(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("source")
    return get_args(field.annotation)[0] if field else None


def _sentence(error: dict[str, Any]) -> list[str]:
    """One pydantic error as lines of ours."""
    sources = {_source(model) for model in (Builtin, Folder, Parquet, Hub)}
    location = error["loc"]
    # The discriminator of a union is a step of pydantic's path but no key of the file.
    shown = [step for place, step in enumerate(location) if not (location[0] == "fetch" and place == 2 and step in sources)]
    shown = [step for step in shown if step != "[key]"]
    key, value, kind = ".".join(map(str, shown)), error.get("input"), error["type"]
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _fields_at(location)
        return [f"{key} is not a known key{nearest(shown[-1], allowed)}; allowed: {', '.join(sorted(set(allowed)))}"]
    if kind == "missing":
        return [f"{key} is missing"]
    if kind == "value_error":
        text = str(context["error"])
        return text.split(FAULT_BREAK) if not key else [f"{key} is {value!r}; it {text}" if text.startswith("must") else f"{key}: {text}"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        names = sorted(source for source in sources if source)
        if not isinstance(value, dict) or "source" not in value:
            return [f"{key}.source is missing; allowed: {', '.join(names)}"]
        return [f"{key}.source is {value['source']!r}; allowed: {', '.join(names)}{nearest(value['source'], names)}"]
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        return [f"{key} is {value!r}; allowed: {', '.join(options)}{nearest(value, options)}"]
    if kind == "model_type":
        return [f"{key} is {value!r}; it must be a section of keys"]
    reason = error["msg"]
    for start in ("Input should be ", "Value should be "):
        reason = reason.removeprefix(start)
    if kind == "string_pattern_mismatch":
        reason = f"text that matches {context['pattern']}"
    return [f"{key} is {value!r}; it must be {reason[0].lower() + reason[1:]}"]


def load(path: str | Path = PARAMS) -> Params:
    """Read and validate ``path``; raise ``UserError`` with one line for each thing that is wrong."""
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run this in the folder that holds it") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError(f"{path} is not valid YAML: {getattr(error, 'problem', None) or error}{place}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {'nothing' if content is None else 'no sections'}; it must hold named sections")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        lines = [line for each in error.errors() for line in _sentence(each)]
        raise UserError("\n".join(f"{path}: {line}" for line in lines)) from None
