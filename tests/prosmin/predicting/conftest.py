"""A tiny model that tells red from green images, exported, and pictures to predict."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prosmin.evaluation.embedding import describe
from prosmin.evaluation.linear_probe import evaluate_probe
from prosmin.evaluation.ood_detectors import Sample, Settings
from prosmin.models import store
from prosmin.objectives.settings import ProSMIN
from prosmin.predicting import bundle, reference

CLASSES = ("red & round", "green")
NARROW = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}
OBJECTIVE = ProSMIN(identification=1.0, heads="stopped")  # it has all label-free scores
SETTINGS = store.ModelSettings(
    "resnet18", 16, 3, (0.5,) * 3, (0.25,) * 3, 16, 8, True, NARROW, OBJECTIVE
)
DETECTION = Settings(k=3)
SIZES = {"train": 60, "val": 40, "test": 30}


def colours(count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Noise in which red or green is strong: uint8 [count, 3, 16, 16], and labels [count]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    pixels = rng.integers(0, 120, (count, 3, 16, 16))
    pixels[np.arange(count), labels] += 120
    return torch.from_numpy(pixels.astype(np.uint8)), labels


class Made:
    """The parts of an exported model.

    folder: of the export. splits: images and labels by split. embeddings: by split.
    """

    def __init__(self, folder: Path, labelled: bool = True):
        self.folder = folder
        self.model = store.build_model(SETTINGS, seed=1).eval()
        self.splits = {
            name: colours(count, place) for place, (name, count) in enumerate(SIZES.items())
        }
        self.model.set_candidates(self.splits["train"][0])
        self.embeddings = {
            name: describe(self.model, images) for name, (images, _) in self.splits.items()
        }
        train, val, test = (
            (self.embeddings[name].features, self.splits[name][1]) for name in SIZES
        )
        self.probe = evaluate_probe(train, val, test, [0.01], 2, 0).probe if labelled else None
        self.samples = [
            Sample(features, labels=labels if labelled else None)
            for features, labels in (train, val)
        ]
        self.names = [f"images/{place} é.png" for place in range(100)]
        self.reference = reference.fit(*self.samples, DETECTION)
        self.facts = bundle.Facts(SETTINGS, "colours", CLASSES if labelled else None, self.names)
        pretrained = folder.parent / "encoder.safetensors"
        store.save_state(pretrained, self.model.encoder.backbone.state_dict())
        state = {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}
        folder.mkdir()
        bundle.write(folder, pretrained, state, self.facts, self.probe, self.reference)


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("predicting") / "export")


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("predicting") / "export", labelled=False)


@pytest.fixture
def export(made, tmp_path) -> Path:
    """A copy of the export, to be damaged."""
    return Path(shutil.copytree(made.folder, tmp_path / "export"))


@pytest.fixture
def photos(made, tmp_path) -> Path:
    """The test images as PNG files in two folders, one broken file, and a file of another kind."""
    folder = tmp_path / "photos"
    (folder / "more <b>").mkdir(parents=True)
    for place, image in enumerate(made.splits["test"][0]):
        name = f"{'more <b>/' if place % 2 else ''}{place:02}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name)
    (folder / "03.png").write_bytes((folder / "00.png").read_bytes()[:100])
    (folder / "notes.txt").write_text("no image")
    return folder
