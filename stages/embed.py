"""embed: the frozen features of one dataset, once, by the trained network and by the same network before training.

Reads   data/<name>, results/pretrain
Writes  results/embed/<name>/{trained,random}.safetensors: for each split ``<split>.features`` float32 [N, F],
        ``<split>.labels`` int64 [N] (-1 = none), ``<split>.digest`` uint64 [N], a checksum of the pixels that the network
        sees, and ``<split>.log_sigma`` float32 [N], where the objective predicts a distribution
"""

import logging
from pathlib import Path

from prosmin import files
from prosmin.errors import UserError, nearest
from stages.command import run
from stages.params import Params

log = logging.getLogger(__name__)


def main(params: Params, name: str = "") -> None:
    if name not in params.fetch:
        raise UserError(
            f"embed needs the name of a dataset, not {name!r}; params.yaml has {', '.join(params.fetch)}"
            + nearest(name, params.fetch)
        )

    import torch

    from prosmin import data, export
    from prosmin.embedding import embed_with_sigma

    source = Path("results/pretrain")
    settings, _ = export.load_description(source)
    folder = Path("data") / name
    device = "cuda" if torch.cuda.is_available() else "cpu"
    splits = {
        split: data.load_split(folder, split, settings.image_size, settings.channels)
        for split in data.read_manifest(folder)["splits"]
    }
    digests = {split: data.digests(content.images) for split, content in splits.items()}
    with files.whole_folder(Path("results/embed") / name) as out:
        for weights in export.WEIGHTS:
            model = export.load_model(source, weights).to(device)
            arrays = {}
            for split, content in splits.items():
                features, log_sigma = embed_with_sigma(model, content.images, params.embed.batch_size)
                arrays |= {
                    f"{split}.features": features,
                    f"{split}.labels": content.labels.numpy(),
                    f"{split}.digest": digests[split],
                }
                if log_sigma is not None:
                    arrays[f"{split}.log_sigma"] = log_sigma
            files.write_arrays(out / f"{weights}.safetensors", arrays)
    log.info("%s: %d images, %d features", name, sum(len(s.images) for s in splits.values()), features.shape[1])


if __name__ == "__main__":
    run("embed", main)
