"""embed: the frozen features of one dataset by the trained network and by the untrained one.

Reads   data/<name>, results/pretrain
Writes  results/embed/<name>/{trained,random}.safetensors, for each split:
        ``<split>.features``: float32 [N, F]
        ``<split>.labels``: int64 [N], -1 for an image without a label
        ``<split>.digest``: uint64 [N], a checksum of the pixels that the network sees
        ``<split>.log_sigma``: float32 [N], where the objective predicts a distribution
        ``<split>.doubt.<name>``: float32 [N], of every score of ``prosmin.objectives.doubts`` that
            the objective has
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from prosmin.common import files
from prosmin.common.encoders import ENCODERS
from stages.common import layout
from stages.common.command import check_name, run
from stages.params.load import Params

log = logging.getLogger(__name__)


def main(params: Params, name: str = "") -> None:
    check_name("embed", "the name of a dataset", name, params.fetch)

    from torch import Tensor

    from prosmin.data import dataset
    from prosmin.evaluation.embedding import describe, on_devices
    from prosmin.models import store
    from prosmin.objectives.base import Objective

    settings, _ = store.load_description(layout.PRETRAINED)
    folder, batch = Path("data") / name, params.embed.batch_size

    def read(part: Callable[[], dataset.Split]) -> tuple[Tensor, dict[str, np.ndarray]]:
        images, labels = (loaded := part()).images, loaded.labels.numpy()
        return images, {"labels": labels, "digest": dataset.digests(images)}

    def describe_all(
        models: Sequence[Objective], part: tuple[Tensor, dict[str, np.ndarray]]
    ) -> list[dict[str, np.ndarray]]:
        return [fields(model, part[0]) | part[1] for model in models]

    def fields(model: Objective, images: Tensor) -> dict[str, np.ndarray]:
        seen = describe(model, images, batch)
        arrays = {"features": seen.features}
        arrays |= {f"{layout.DOUBT}{score}": of for score, of in seen.doubts.items()}
        return arrays if seen.log_sigma is None else arrays | {"log_sigma": seen.log_sigma}

    wholes: list[dict[str, np.ndarray]] = [{} for _ in ENCODERS]
    models = [store.load_model(layout.PRETRAINED, encoder) for encoder in ENCODERS]
    count = 0
    for split in dataset.split_names(folder):
        stored = dataset.parts(folder, split, settings.frame, settings.channels, batch)
        parts = [partial(read, part) for part in stored]
        images, first = dataset.read_manifest(folder)["splits"][split]["count"], 0
        with closing(on_devices(models, parts, describe_all)) as outputs:
            for output in outputs:
                for whole, arrays in zip(wholes, output, strict=True):
                    last = _place(whole, split, arrays, images, first)
                first = last
        count += images
    with files.whole_folder(layout.results("embed", name)) as out:
        for encoder, whole in zip(ENCODERS, wholes, strict=True):
            files.write_arrays(out / layout.features(name, encoder).name, whole)
    log.info("%s: %d images, %d features", name, count, whole[f"{split}.features"].shape[1])


def _place(
    whole: dict[str, np.ndarray],
    split: str,
    arrays: dict[str, np.ndarray],
    count: int,
    first: int,
) -> int:
    """Copy the arrays of some images to their places among the ``count`` images of a split.

    Whole arrays from the start: parts, and the whole that they are joined to, would take twice the
    memory. Returns the row behind these images.
    """
    for field, values in arrays.items():
        key = f"{split}.{field}"
        if key not in whole:
            whole[key] = np.empty((count, *values.shape[1:]), values.dtype)
        whole[key][first : first + len(values)] = values
    return first + len(values)


if __name__ == "__main__":
    run("embed", main)
