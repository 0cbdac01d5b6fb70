"""CIFAR-10, its OOD sets and its human labels in one file that needs no pyarrow to be read."""

import io
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from prosmin.common.files import read_arrays, write_arrays
from prosmin.common.seeds import sample_rows
from prosmin.data.dataset import Split

STUDY = yaml.safe_load((Path(__file__).parents[1] / "studies/cifar10.yaml").read_text())
OOD: dict[str, str] = STUDY["base"]["ood.sets"]  # near or far, by set
HELD_OUT = 5000  # training images, at most a tenth of them


def pack(sets: Path, out: Path) -> None:
    """Write the encoded images of CIFAR-10 and of the OOD sets into one file.

    JPEGs of small images are headers for the most part, all alike, so that they compress well.
    """
    import pyarrow.parquet as pq

    files = {split: f"cifar10/{split}" for split in ("train", "test")}
    files |= {name: f"cifar10_ood/{name}" for name in OOD}
    arrays = {}
    for name, path in files.items():
        table = pq.read_table(sets / f"{path}.parquet")
        images = [row["bytes"] for row in table["image"].to_pylist()]
        arrays[f"{name}.bytes"] = np.frombuffer(zlib.compress(b"".join(images), 9), np.uint8)
        arrays[f"{name}.ends"] = np.cumsum([len(image) for image in images])
        arrays[f"{name}.labels"] = table["label"].to_numpy()
    human = pq.read_table(sets / "cifar10/human_labels.parquet")
    arrays["test.human"] = np.stack([column.to_numpy() for column in human.columns], 1)
    write_arrays(out, arrays)


def decoded(arrays: Mapping[str, np.ndarray], name: str) -> Tensor:
    """The images of a set, uint8 [N, 3, S, S]."""
    ends = arrays[f"{name}.ends"].tolist()
    content = zlib.decompress(arrays[f"{name}.bytes"].tobytes())

    def pixels(start: int, end: int) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(content[start:end])).convert("RGB"))

    with ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(pixels, [0, *ends[:-1]], ends)))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Data:
    """train, val, test: of CIFAR-10. others: images of the OOD sets. human: [N, C] of test."""

    train: Split
    val: Split
    test: Split
    others: dict[str, Tensor]
    human: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "Data":
        arrays = read_arrays(path)
        images, labels = decoded(arrays, "train"), torch.from_numpy(arrays["train.labels"])
        held = np.zeros(len(images), bool)
        held[sample_rows(len(images), min(HELD_OUT, len(images) // 10), 0, "held out")] = True
        test = Split(decoded(arrays, "test"), torch.from_numpy(arrays["test.labels"]), ())
        val, train = (Split(images[part], labels[part], ()) for part in (held, ~held))
        others = {name: decoded(arrays, name) for name in OOD}
        return cls(train, val, test, others, arrays["test.human"])
