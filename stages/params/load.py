"""``params.yaml`` as typed, validated objects.

Every section is named after the stage that reads it. ``load`` reports every fault on a line of its
own: dotted key, value, what is allowed, and the nearest valid name for a misspelt one.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError
from pydantic_core import to_jsonable_python

from prosmin.common.errors import UserError, listed, nearest, printable, shown
from stages.common import declared
from stages.common.declared import PARAMS
from stages.params.evaluation import (
    Audit,
    Calibrate,
    Corrupt,
    Embed,
    Export,
    Finetune,
    Knn,
    Linear,
    Lowshot,
    Ood,
    Prediction,
    Report,
    Shift,
    Transfer,
    Uncertainty,
)
from stages.params.fetch import AnyDataset, DatasetName
from stages.params.pretrain import Pretrain
from stages.params.schema import keys
from stages.params.types import Section, Seed
from stages.params.yaml_file import first, read, sentences

# Sections whose lists may name the dataset that is trained on.
WITH_TRAINED = ("finetune", "uncertainty", "audit")


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
    calibrate: Calibrate = Calibrate()
    corrupt: Corrupt
    shift: Shift = Shift()
    transfer: Transfer
    uncertainty: Uncertainty = Uncertainty()
    audit: Audit
    export: Export = Export()
    report: Report = Report()


def _misnamed(content: dict[Any, Any]) -> Iterator[str]:
    """A line for every name of a dataset that ``fetch`` lacks or that stands in the wrong place.

    ``content`` is that of the file, so these faults are reported together with those of the keys.
    """

    def inside(section: str, key: str, kind: type) -> Any:
        value = content.get(section)
        value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, kind) else kind()

    known, trained = content.get("fetch"), content.get("dataset")
    if not isinstance(known, dict) or not known:
        return  # one fault, not one per name
    named = [("dataset", trained)]
    named += [(f"ood.sets.{printable(name)}", name) for name in inside("ood", "sets", dict)]
    for section, key in (
        ("transfer", "targets"),
        ("shift", "sets"),
        ("finetune", "datasets"),
        ("uncertainty", "datasets"),
        ("audit", "datasets"),
    ):
        names = enumerate(inside(section, key, list))
        named += [(f"{section}.{key}.{place}", name) for place, name in names]
    for key, name in named:
        if isinstance(name, str) and name not in known:
            allowed = f"allowed, as they stand under fetch: {listed(known)}"
            yield f"{key} is {shown(name)}; {allowed}{nearest(name, known)}"
        elif name == trained and key != "dataset" and not key.startswith(WITH_TRAINED):
            yield f"{key} is {shown(name)}, the dataset that is trained on; name another"


def _left_out(content: dict[Any, Any], graph: Path) -> Iterator[str]:
    """One line for all missing keys that have a default and that ``graph``, a dvc.yaml, names.

    DVC knows no defaults. It would report a missing key only when its stage is due, which is after
    pretraining.
    """
    defaults: dict[str, str] = {}
    for key in declared.asked_for(content, graph):
        section, model, path = content, Params, ""
        for step in key.split("."):
            known = keys(model)
            if not isinstance(section, dict) or step not in known:
                break
            path = f"{path}.{step}" if path else step
            if step not in section:
                if not known[step].required:
                    defaults[path] = _as_yaml(known[step].default)
                break
            section, model = section[step], known[step].kind
    if defaults:
        names = ", ".join(f"{key} (default: {value})" for key, value in defaults.items())
        verb, object_ = ("is", "it") if len(defaults) == 1 else ("are", "them")
        yield f"{names} {verb} missing; {graph.name} asks for {object_}, so write {object_} down"


def _as_yaml(value: Any) -> str:
    plain = to_jsonable_python(value, by_alias=True)
    return (
        yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10**6)
        .removesuffix("...\n")
        .strip()
    )


def load(path: str | Path = PARAMS) -> Params:
    """Read and validate ``path``. Raises ``UserError`` with one line per fault."""
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
    if faults := first(lines):
        raise UserError("\n".join(f"{path}: {line}" for line in faults))
    return params
