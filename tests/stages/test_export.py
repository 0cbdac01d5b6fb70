"""The exported encoder, loaded as its model card says, is the encoder that was trained."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

import prosmin
from prosmin.common import files
from prosmin.common.errors import ConfigError, UserError
from prosmin.data.arrow import Layout, SplitWriter
from prosmin.data.cut import convert
from prosmin.evaluation.embedding import describe
from prosmin.evaluation.linear_probe import evaluate_probe
from prosmin.evaluation.ood_detectors import Sample, Settings
from prosmin.evaluation.ood_scores import Fitted
from prosmin.metrics import classification
from prosmin.models import store as models
from prosmin.predicting import onnx_file
from stages import detectors, export, linear
from stages.common.pretraining import used
from stages.params.load import load
from tests.stages.conftest import ROOT

NARROW = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}
TINY_VIT = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 16}
STEM, VIT = "the stem for small images", "a ViT on grey images"
ENCODERS = {
    STEM: ("resnet18", 8, 1, True, NARROW),
    "a narrow stem for small images": (
        "resnet18",
        8,
        3,
        True,
        NARROW | {"stem_type": "deep", "stem_width": 4},
    ),
    "a ResNet as timm has it": ("resnet18", 32, 3, False, NARROW),
    VIT: ("vit_tiny_patch16_224", 16, 1, False, TINY_VIT),
}


@pytest.fixture(params=ENCODERS)
def pretrained(request, tmp_path, monkeypatch):
    """An encoder with its weights in results/pretrain, and a few metrics; returns its settings."""
    name, size, channels, stem, kwargs = ENCODERS[request.param]
    settings = models.ModelSettings(
        name, size, channels, (0.3,) * channels, (0.2,) * channels, 16, 8, stem, kwargs
    )
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    model, folder = models.build_model(settings, seed=1), tmp_path / "results/pretrain"
    folder.mkdir(parents=True)
    models.save_state(folder / "encoder.safetensors", model.encoder.backbone.state_dict())
    models.save_state(folder / models.WEIGHTS["trained"], model.state_dict())
    write_features(model, settings)
    params = used(load())
    models.save_description(
        folder,
        settings,
        {"prosmin": "0", "dataset": "digits", "images": 7, "seed": 0, "params": params},
    )
    files.write_metrics(
        "metrics/fetch/digits.json", {"train": {"count": 7, "sha256": "ab"}, "classes": 10}
    )
    few = {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.93, "labels": 100, "draws": 5}
    files.write_metrics("metrics/lowshot.json", {"trained": {"per_class_10": few}, "random": {}})
    files.write_metrics(
        "metrics/linear.json",
        {
            "trained": {"accuracy": 0.97, "accuracy_low": 0.95, "accuracy_high": 0.98},
            "random": {"accuracy": 0.5},
        },
    )
    detectors.main(load())
    return settings


COUNTS = {"train": 40, "val": 20, "test": 10}
LABELS = ("dark", "bright")


def pictures(settings, split):
    """Dark and bright noise, and labels."""
    rng = np.random.default_rng(COUNTS[split])
    shape = (COUNTS[split], settings.channels, settings.image_size, settings.image_size)
    labels = np.arange(COUNTS[split]) % 2
    pixels = rng.integers(0, 90, shape) + 120 * labels[:, None, None, None]
    return torch.from_numpy(pixels.astype(np.uint8)), labels


def write_split(settings, split, labels):
    path, layout = f"data/digits/{split}.arrow", Layout("encoded", settings.channels)
    with SplitWriter(path, layout) as file:
        for place, label in enumerate(labels.tolist()):
            file.add(b"an image", label, f"{LABELS[label]}/{split} {place}.png")


def write_features(model, settings):
    """The dataset's manifest, its features, and a linear probe of them."""
    manifest = {
        "classes": list(LABELS),
        "splits": {name: {"count": n} for name, n in COUNTS.items()},
    }
    files.write_json("data/digits/manifest.json", manifest)
    arrays, labelled = {}, []
    for split in COUNTS:
        images, labels = pictures(settings, split)
        write_split(settings, split, labels)
        embedding = describe(model.eval(), images)
        labelled.append((embedding.features, labels))
        arrays |= {
            f"{split}.features": embedding.features,
            f"{split}.labels": labels.astype(np.int64),
            f"{split}.digest": np.arange(len(labels), dtype=np.uint64),
            f"{split}.log_sigma": embedding.log_sigma,
        }
    for encoder in ("trained", "random"):
        files.write_arrays(f"results/embed/digits/{encoder}.safetensors", arrays)
    linear.save_probes(
        dict.fromkeys(("trained", "random"), evaluate_probe(*labelled, [0.01], 2, 0))
    )


def test_the_folder_predicts_as_the_evaluations_do(pretrained, params):
    export.main(params)
    images, _ = pictures(pretrained, "test")
    found = prosmin.load("results/export", "cpu").predict(images)
    arrays = files.read_arrays("results/embed/digits/trained.safetensors")
    probe = linear.load_probe("trained")
    logits = probe.logits(arrays["test.features"])
    expected = classification.softmax(logits / probe.temperature)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.labels == [LABELS[place] for place in logits.argmax(axis=1)]
    asked = params.ood
    settings = Settings(asked.k, asked.temperature, asked.shrinkage, asked.vim_dim, params.seed)
    train = Sample(
        *(
            np.concatenate([arrays[f"{split}.{field}"] for split in ("train", "val")])
            for field in ("features", "log_sigma")
        ),
        labels=np.arange(60) % 2,
    )
    scores = Fitted.fit(train, settings).score(Sample(arrays["test.features"]))
    assert list(found.scores) == ["knn", "mahalanobis", "combined"]
    for name, values in found.scores.items():
        np.testing.assert_allclose(values, scores[name], rtol=1e-5, atol=1e-5)
    nearest = prosmin.load("results/export", "cpu").predict(pictures(pretrained, "val")[0]).nearest
    assert nearest[:2, 0].tolist() == ["dark/val 0.png", "bright/val 1.png"]


@pytest.mark.parametrize("pretrained", [STEM, VIT], indirect=True)
def test_the_onnx_file_predicts_as_the_folder_does(pretrained, params):
    for package in onnx_file.PACKAGES:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[onnx]'")
    export.main(with_onnx(params))
    images, _ = pictures(pretrained, "test")
    found = onnx_file.run(Path("results/export/model.onnx").read_bytes(), images.numpy())
    known = prosmin.load("results/export", "cpu").predict(images)
    np.testing.assert_allclose(found["features"], known.embedding.features, atol=1e-5)
    np.testing.assert_allclose(found["probabilities"], known.probabilities, atol=1e-5)
    np.testing.assert_array_equal(found["set"], known.sets)
    for name, values in known.label_free.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
    expected = known.scores["mahalanobis"]
    np.testing.assert_allclose(found["ood_mahalanobis"], expected, rtol=1e-4)
    assert "model.onnx" in Path("results/export/README.md").read_text()


def test_a_missing_package_of_onnx_is_named_before_any_work(params, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    message = "^export.onnx is True; an ONNX file needs .*onnxruntime.*pip install"
    with pytest.raises(ConfigError, match=message):
        export.main(with_onnx(params))


def with_onnx(params):
    return params.model_copy(update={"export": params.export.model_copy(update={"onnx": True})})


def test_a_dataset_without_labels_is_exported_without_a_probe(pretrained, params):
    arrays = dict(files.read_arrays("results/embed/digits/trained.safetensors"))
    for split, count in COUNTS.items():
        arrays[f"{split}.labels"] = np.full(count, -1)
        write_split(pretrained, split, arrays[f"{split}.labels"])
    files.write_arrays("results/embed/digits/trained.safetensors", arrays)
    manifest = files.read_json("data/digits/manifest.json")
    files.write_json("data/digits/manifest.json", manifest | {"classes": None})
    linear.save_probes({})
    detectors.main(params)
    export.main(params)
    found = prosmin.load("results/export", "cpu").predict(pictures(pretrained, "test")[0])
    assert found.labels is None and list(found.scores) == ["knn"]


@pytest.mark.parametrize("pretrained", [STEM], indirect=True)
def test_features_of_other_images_are_refused(pretrained, params):
    with SplitWriter("data/digits/val.arrow", Layout("encoded", pretrained.channels)) as file:
        file.add(b"an image", 0, "0.png")
    manifest = files.read_json("data/digits/manifest.json")
    files.write_json(
        "data/digits/manifest.json",
        manifest | {"splits": manifest["splits"] | {"val": {"count": 1}}},
    )
    with pytest.raises(UserError, match="has 20 images of val of dataset 'digits', which holds 1;"):
        export.main(params)


def test_a_missing_result_names_the_stage_that_makes_it(pretrained, params):
    shutil.rmtree("results/linear")
    with pytest.raises(UserError, match="run `dvc repro` or `python -m stages.linear`"):
        export.main(params)
    assert not Path("results/export").exists()


def test_the_code_on_the_card_gives_the_encoder(pretrained, tmp_path, monkeypatch):
    export.main(load())
    card = (tmp_path / "results/export/README.md").read_text()
    monkeypatch.chdir(tmp_path / "results")
    given: dict = {}
    exec(re.search("```python\n(.*?)```", card, re.DOTALL)[1], given)
    images = torch.rand(3, pretrained.channels, pretrained.image_size, pretrained.image_size)
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (pretrained.mean, pretrained.std)
    )
    with torch.inference_mode():
        ours = models.load_encoder(tmp_path / "results/pretrain")(images)
        torch.testing.assert_close(
            given["encoder"]((images - mean) / std), ours, rtol=0, atol=1e-5
        )  # ours: channels last


def test_timm_itself_loads_what_it_has_a_name_for(pretrained, tmp_path):
    export.main(load())
    assert (tmp_path / "results/export/config.json").is_file() != pretrained.cifar_stem
    if not pretrained.cifar_stem:
        encoder = timm.create_model(f"local-dir:{tmp_path}/results/export", pretrained=True)
        assert encoder.pretrained_cfg["mean"] == list(pretrained.mean)
        # What timm does to a picture is what every number on the card was measured with.
        transform = timm.data.create_transform(
            **timm.data.resolve_data_config(model=encoder), is_training=False
        )
        colour = "L" if pretrained.channels == 1 else "RGB"
        for width, height in ((500, 334), (100, 67), (64, 64)):
            shape = (height, width, 3)
            pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            picture = Image.fromarray(pixels).resize((width, height)).convert(colour)
            given = torch.from_numpy(np.array(picture).reshape(height, width, -1)).permute(2, 0, 1)[
                None
            ]
            ours = convert(given, pretrained.image_size, pretrained.channels)[0].float() / 255
            scaled = [
                torch.tensor(values)[:, None, None] for values in (pretrained.mean, pretrained.std)
            ]
            theirs = transform(picture) * scaled[1] + scaled[0]
            assert (theirs - ours).abs().max() < 2 / 255
        assert tuple(encoder.pretrained_cfg["input_size"]) == (
            pretrained.channels,
            *2 * [pretrained.image_size],
        )


def test_the_card_has_data_metrics_and_settings_and_is_the_same_each_time(pretrained, tmp_path):
    export.main(load())
    card = (tmp_path / "results/export/README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "timm" and front["datasets"] == ["digits"]
    assert "| linear probe: accuracy | 0.970 | 0.950 – 0.980 | 0.500 | test images |" in card
    assert "| 0.850 – 0.930 |  | 5 draws of the labels and test images |" in card
    assert '"sha256": "ab"' in card and "on 7 images of `digits`, seed 0, 80 epochs" in card
    settings = yaml.safe_load(re.search("```yaml\n(.*?)```", card, re.DOTALL)[1])
    assert settings["pretrain"]["epochs"] == 80
    assert str(tmp_path) not in card
    export.main(load())
    assert (tmp_path / "results/export/README.md").read_text() == card


def test_without_a_model_it_says_which_stage_makes_it(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError,
        match="results/pretrain/model.json does not exist; make it with `dvc repro pretrain`",
    ):
        export.main(load())
    assert not (tmp_path / "results").exists()
