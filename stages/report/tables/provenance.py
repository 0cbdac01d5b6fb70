"""Tables of settings chosen by data and of checksums of the data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from prosmin.common.encoders import ENCODERS
from stages.common import layout
from stages.report.figures.lines import score_line
from stages.report.inputs import Inputs, Missing, made_by


@dataclass(frozen=True)
class Checksum:
    """One split of a dataset. count: of its images."""

    dataset: str
    split: str
    count: int
    sha256: str


def checksums(inputs: Inputs) -> Iterator[Checksum | Missing]:
    """One row per split of the datasets in ``params.fetch``, as the fetch stage wrote it."""
    for dataset in inputs.params.fetch:
        path = layout.metrics("fetch", dataset)
        manifest = inputs.metrics(path)
        if not manifest:
            yield made_by(path, "fetch", dataset)
            continue
        for split in ("train", "val", "test"):
            if split in manifest:
                yield Checksum(dataset, split, manifest[split]["count"], manifest[split]["sha256"])


class Selection(NamedTuple):
    """A setting that was chosen by data: its value for both encoders, and how it was chosen."""

    setting: str
    trained: str
    random: str
    how: str


def selections(inputs: Inputs) -> list[Selection]:
    """The settings that were chosen by data instead of given in the params."""
    wanted: list[tuple[str, Path, str, str]] = []
    probes = [("linear probe", layout.metrics("linear"))]
    probes += [
        (f"transfer to {target}", layout.metrics("transfer", target))
        for target in inputs.params.transfer.targets
    ]
    for title, path in probes:
        wanted += [
            (title, path, "l2", "lowest NLL on val; the probe is then refitted on train and val"),
            (title, path, "temperature", "lowest NLL on val, by a probe that has not seen val"),
        ]
    for name in inputs.params.finetune.datasets:
        how = "lowest NLL on val; then trained again on train and val"
        path = layout.metrics("finetune", name)
        wanted += [(f"fine-tuned on {name}", path, key, how) for key in ("lr", "epochs")]
    how = "highest accuracy on val; the bank is then train and val"
    wanted += [("k-NN", layout.metrics("knn"), key, how) for key in ("k", "temperature")]
    selections = [
        Selection(f"{title}: {key}", *_chosen(inputs, path, key), how)
        for title, path, key, how in wanted
    ]
    for name in inputs.params.uncertainty.datasets:
        content = inputs.metrics(layout.metrics("uncertainty", name)) or {}
        scores = content.get("chosen") or {}
        labels = (score_line(scores[of]).label if of in scores else "" for of in ENCODERS)
        title = f"uncertainty on {name}: score"
        selections.append(Selection(title, *labels, "highest R-AUROC on val, of those of networks"))
    return [selection for selection in selections if selection.trained]


def _chosen(inputs: Inputs, path: Path, key: str) -> tuple[str, str]:
    """The value of a setting for both encoders, empty where it was not chosen."""
    content = inputs.metrics(path) or {}
    parts = [content.get(encoder) or {} for encoder in ENCODERS]
    trained, random = (f"{part[key]:.4g}" if key in part else "" for part in parts)
    return trained, random
