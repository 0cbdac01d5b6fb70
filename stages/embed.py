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
from pathlib import Path

from prosmin.common import files
from prosmin.common.encoders import ENCODERS
from stages.common import layout
from stages.common.command import check_name, run
from stages.params.load import Params

log = logging.getLogger(__name__)


def main(params: Params, name: str = "") -> None:
    check_name("embed", "the name of a dataset", name, params.fetch)

    import numpy as np
    import torch

    from prosmin.data import dataset
    from prosmin.evaluation.embedding import describe
    from prosmin.models import store

    settings, _ = store.load_description(layout.PRETRAINED)
    folder = Path("data") / name
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {
        encoder: store.load_model(layout.PRETRAINED, encoder).to(device) for encoder in ENCODERS
    }
    parts: dict[str, dict[str, list[np.ndarray]]] = {encoder: {} for encoder in models}
    count = 0
    for split in dataset.split_names(folder):
        for chunk in dataset.chunks(folder, split, settings.frame, settings.channels):
            count += len(chunk)
            common = {"labels": chunk.labels.numpy(), "digest": dataset.digests(chunk.images)}
            for encoder, model in models.items():
                embedding = describe(model, chunk.images, params.embed.batch_size)
                arrays = {"features": embedding.features, **common}
                arrays |= {f"{layout.DOUBT}{score}": of for score, of in embedding.doubts.items()}
                if embedding.log_sigma is not None:
                    arrays["log_sigma"] = embedding.log_sigma
                for field, values in arrays.items():
                    parts[encoder].setdefault(f"{split}.{field}", []).append(values)
    with files.whole_folder(layout.results("embed", name)) as out:
        for encoder, chunks in parts.items():
            files.write_arrays(
                out / layout.features(name, encoder).name,
                {key: np.concatenate(values) for key, values in chunks.items()},
            )
    log.info("%s: %d images, %d features", name, count, embedding.features.shape[1])


if __name__ == "__main__":
    run("embed", main)
