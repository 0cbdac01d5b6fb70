"""Corrupted images and frost that others have published, in arrays and in folders."""

import numpy as np
import pytest
import torch
from PIL import Image

from prosmin import corruptions
from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.data import dataset
from stages import corrupt
from tests.stages.corrupt.cells import SEVERITIES, TYPES, changed, generated, written

SOURCE = ("dataset", "source", "images")  # of which cells the numbers are


def without_similarity() -> tuple:
    """The written numbers without the feature similarity and without the source of the cells."""
    content = files.read_json("metrics/corrupt.json")
    metrics = {
        encoder: {
            name: value
            for name, value in part.items()
            if not name.startswith("feature_similarity") and name not in SOURCE
        }
        for encoder, part in content.items()
    }
    rows = files.read_csv("plots/corrupt/accuracy.csv")
    return metrics, [{**row, "feature_similarity": ""} for row in rows]


def test_published_arrays_give_the_numbers_of_the_same_images(place, params):
    """Generated images, written as CIFAR-10-C is and read again."""
    corrupt.main(params)
    expected, split = without_similarity(), dataset.load_split("data/digits", "test", 8, 1)
    folder = place / "digits-c"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(split.labels.numpy().astype(np.uint8), 5))
    for name in TYPES:
        cells = [generated(split, name, severity) for severity in corruptions.SEVERITIES]
        np.save(folder / f"{name}.npy", torch.cat(cells).permute(0, 2, 3, 1).numpy())
    corrupt.main(changed(params, source="arrays", path="digits-c"))
    assert without_similarity() == expected


def test_published_folders_give_the_numbers_of_the_same_images(place, params):
    """By class, and so in another order than the test split; as PNG, to lose nothing."""
    corrupt.main(params)
    expected, split = (
        files.read_json("metrics/corrupt.json"),
        dataset.load_split("data/digits", "test", 8, 1),
    )
    for name in TYPES:
        for severity in SEVERITIES:
            for row, (image, label) in enumerate(
                zip(generated(split, name, severity), split.labels.tolist())
            ):
                path = (
                    place
                    / "digits-folders"
                    / name
                    / str(severity)
                    / split.classes[label]
                    / f"{row:03}.png"
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[0].numpy()).save(path)
    asked = changed(params, source="folders", path="digits-folders")
    corrupt.main(asked)
    metrics = files.read_json("metrics/corrupt.json")
    for encoder, values in expected.items():
        for name in set(values) - set(SOURCE):
            value = values[name]
            if name == "feature_similarity":
                assert (
                    name not in metrics[encoder]
                )  # the files come in another order than the clean images
            elif not name.endswith(("_low", "_high")):  # resamples meet the images in another order
                assert metrics[encoder][name] == pytest.approx(value, rel=1e-4)
    next(iter((place / "digits-folders/contrast/5/3").iterdir())).unlink()
    before = written()
    with pytest.raises(
        UserError, match="digits-folders/contrast/5 holds 359 images and .*impulse_noise/1 360"
    ):
        corrupt.main(asked)
    assert written() == before


def test_frost_of_a_folder(place, params):
    black = place / "frost" / "black.png"
    black.parent.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(black)
    corrupt.main(changed(params, types=("frost",), frost="frost"))
    files_of_frost = written()
    corrupt.main(changed(params, types=("frost",)))
    assert written() != files_of_frost
    with pytest.raises(UserError, match="nowhere holds no images of frost"):
        corrupt.main(changed(params, types=("frost",), frost="nowhere"))
