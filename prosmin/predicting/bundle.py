"""The folder of a whole model: safetensors and JSON, nothing that could run code.

model.safetensors    weights of the encoder, for timm too (``config.json``)
heads.safetensors    the other weights that describe an image: projector and predictive head
probe.safetensors    linear probe, temperature, conformal threshold; absent without labels
reference.safetensors    names of training images, and their statistics for OOD detection and
                         neighbours
prosmin.json         the format, the parts with their checksums, and all facts that are no arrays

The target network is left out: no prediction for an image needs it.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prosmin.common import files
from prosmin.evaluation.covariance import Means
from prosmin.evaluation.knn import Bank
from prosmin.evaluation.linear_probe import Probe
from prosmin.fetching.listing import escape_unprintable
from prosmin.models.store import ModelSettings
from prosmin.objectives.base import Objective
from prosmin.predicting.parts import (
    ENCODER,
    EXPORT,
    FORMAT,
    HEADS,
    INDEX,
    OF_ENCODER,
    OF_TARGET,
    checksum,
    networks,
    read_index,
    read_part,
    unlike,
)
from prosmin.predicting.reference import Detectors, Reference

PROBE, REFERENCE = "probe.safetensors", "reference.safetensors"


@dataclass(frozen=True)
class Facts:
    """What a folder says beside its arrays.

    model: settings of the networks.
    dataset: name of the dataset of pretraining.
    classes: names in the order of the probe's classes; None without labels.
    images: the file or row of the source of each training image, in the order of the reference.
    """

    model: ModelSettings
    dataset: str
    classes: tuple[str, ...] | None
    images: Sequence[str]


def write(
    folder: Path,
    pretrained: Path,
    state: Mapping[str, np.ndarray],
    facts: Facts,
    probe: Probe | None,
    reference: Reference,
) -> None:
    """Write the parts into an existing folder.

    pretrained: file with the weights of the encoder alone.
    state: the weights of the whole objective by name.
    """
    shutil.copyfile(pretrained, folder / ENCODER)
    heads = {
        name: array for name, array in state.items() if not name.startswith((OF_ENCODER, OF_TARGET))
    }
    files.write_arrays(folder / HEADS, heads)
    if probe is not None:
        probe.save(folder / PROBE)
    detectors = reference.detectors
    arrays = {"bank": detectors.bank.features, "bank_centre": detectors.bank.centre}
    names = "\n".join(map(escape_unprintable, facts.images))
    arrays["images"] = np.frombuffer(names.encode(), np.uint8)
    if detectors.means is not None:
        arrays |= {f"means.{name}": array for name, array in vars(detectors.means).items()}
    arrays |= {f"held.{name}": scores for name, scores in reference.held.items()}
    files.write_arrays(folder / REFERENCE, arrays)
    parts = [ENCODER, HEADS, *([PROBE] if probe else []), REFERENCE]
    files.write_json(
        folder / INDEX,
        {
            "format": FORMAT,
            "parts": {
                name: checksum(files.read_arrays(folder / name, mapped=True)) for name in parts
            },
            "model": asdict(facts.model),
            "dataset": facts.dataset,
            "classes": facts.classes,
            "detectors": {"k": detectors.k, "standards": dict(detectors.standards)},
        },
    )


def read(folder: str | Path) -> tuple[Facts, Objective, Probe | None, Reference]:
    """Read facts, networks in evaluation mode, probe (None without labels) and reference.

    Raises ``UserError`` where a part is missing, damaged, of another export or of another format.
    """
    folder = Path(folder)
    index = read_index(folder)
    with files.decoding(folder / INDEX, EXPORT, "does not describe a model"):
        parts = {name: read_part(folder, name, index) for name in index["parts"]}
        if missing := {ENCODER, HEADS, REFERENCE} - parts.keys():
            raise ValueError(f"it names no {min(missing)}")
        classes = index["classes"]
        facts = Facts(
            ModelSettings(**index["model"]),
            str(index["dataset"]),
            None if classes is None else tuple(map(str, classes)),
            _names(parts[REFERENCE]),
        )
        k = int(index["detectors"]["k"])
        standards = {
            name: (float(mean), float(spread))
            for name, (mean, spread) in index["detectors"]["standards"].items()
        }
    model = networks(facts.model, parts, folder)
    probe = Probe.load(folder / PROBE) if PROBE in parts else None
    if probe is not None and len(facts.classes or ()) != len(probe.bias):
        raise unlike(folder, f"{PROBE} has {len(probe.bias)} classes, {INDEX} others")
    reference = _reference(parts[REFERENCE], k, standards)
    if len(facts.images) != (count := len(reference.detectors.bank.features)):
        raise unlike(folder, f"{REFERENCE} names {len(facts.images)} of {count} training images")
    return facts, model.eval(), probe, reference


def _reference(arrays: files.Arrays, k: int, standards: Mapping[str, Any]) -> Reference:
    wanted = {"bank": ("float32", "NF"), "bank_centre": ("float32", "F")}
    with_means = any(name.startswith("means.") for name in arrays)
    if with_means:
        wanted |= {f"means.{name}": shape for name, shape in Means.SHAPES.items()}
    arrays.check(wanted)
    means = None
    if with_means:
        means = Means(**{name: arrays[f"means.{name}"] for name in Means.SHAPES})
    detectors = Detectors(k, Bank(arrays["bank"], arrays["bank_centre"]), means, standards)
    arrays.check({f"held.{name}": ("float64", "M") for name in detectors.names})
    held = {name: arrays[f"held.{name}"] for name in detectors.names}
    return Reference(detectors, held)


def _names(arrays: files.Arrays) -> list[str]:
    arrays.check({"images": ("uint8", "L")})
    return arrays["images"].tobytes().decode().split("\n")
