"""Weights from elsewhere: all are loaded as timm would load them, or a sentence says why not."""

import json
from dataclasses import replace

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from prosmin.common.errors import ConfigError, UserError
from prosmin.data.frame import Frame
from prosmin.models import store
from prosmin.training.weights import external

RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}
VIT = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
SETTINGS = {
    "resnet": store.ModelSettings("resnet18", 32, 3, (0.5,) * 3, (0.2,) * 3, 16, 8, False, RESNET),
    "small stem": store.ModelSettings("resnet18", 8, 1, (0.5,), (0.2,), 16, 8, True, RESNET),
    "vit": store.ModelSettings(
        "vit_tiny_patch16_224", 16, 3, (0.5,) * 3, (0.2,) * 3, 16, 8, False, VIT
    ),
}


def trained(settings, **options):
    """A timm model at weights that nobody else draws, its batch statistics among them."""
    with torch.random.fork_rng():
        torch.manual_seed(17)
        if settings.cifar_stem:
            model = external.build_backbone(
                settings.encoder, settings.image_size, settings.channels, True, settings.kwargs
            )
        else:
            given = {**settings.kwargs, **options}
            model = timm.create_model(settings.encoder, in_chans=settings.channels, **given)
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.2)
    return model.eval()


def written(folder, model, **config):
    """The weights in a file, with a config.json beside them."""
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "model.safetensors",
    )
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_features_are_those_of_timms_own_model(tmp_path, kind):
    settings = SETTINGS[kind]
    model = trained(settings, **({"img_size": 16, "num_classes": 7} if kind == "vit" else {}))
    weights = external.from_file(written(tmp_path, model))
    backbone = external.load_backbone(weights, settings).eval()
    images = torch.randn(4, settings.channels, settings.image_size, settings.image_size)
    with torch.inference_mode():
        model.reset_classifier(0)
        assert torch.equal(backbone(images), model(images))


def test_a_tag_of_timm_goes_with_the_name_and_the_export_can_be_loaded(tmp_path):
    settings = replace(SETTINGS["resnet"], encoder="resnet18.a1_in1k")
    weights = external.from_file(written(tmp_path, trained(settings)))
    assert external.load_backbone(weights, settings).num_features == 16
    cfg = timm.get_pretrained_cfg("resnet18.a1_in1k")
    assert weights.normalisation(settings.encoder) == (cfg.mean, cfg.std)
    assert weights.normalisation("resnet18") is None


def test_position_embeddings_of_another_size_are_interpolated_as_timm_does_it(tmp_path):
    settings = SETTINGS["vit"]
    model = trained(settings, img_size=32)
    cfg = {
        "input_size": [3, 32, 32],
        "num_classes": 1000,
        "classifier": "head",
        "first_conv": "patch_embed.proj",
    }
    path = written(
        tmp_path, model, architecture=settings.encoder, model_args=VIT, pretrained_cfg=cfg
    )
    backbone = external.load_backbone(external.from_file(path), settings).eval()
    theirs = timm.create_model(
        f"local-dir:{path}", pretrained=True, num_classes=0, img_size=16, dynamic_img_size=True
    ).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(backbone(images), theirs(images))


def test_the_config_beside_the_weights_says_how_the_input_is_normalised(tmp_path):
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    model = trained(SETTINGS["resnet"])
    weights = external.from_file(
        written(tmp_path, model, architecture="resnet18", pretrained_cfg=cfg) / "model.safetensors"
    )
    assert weights.normalisation("resnet18.a1_in1k") == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_the_input_is_cut_as_given_or_as_the_weights_were_evaluated(tmp_path):
    cfg = {"crop_pct": 0.95, "interpolation": "bicubic"}
    model = trained(SETTINGS["resnet"])
    told = external.from_file(written(tmp_path, model, architecture="resnet18", **cfg))
    assert external.frame(told, "resnet18", 224) == Frame(224, 0.95, "bicubic")
    assert external.frame(told, "resnet18", 224, 0.5, "bilinear") == Frame(224, 0.5, "bilinear")
    silent = replace(told, config={})
    assert external.frame(silent, "resnet18", 224) == Frame(224)
    known = timm.get_pretrained_cfg("resnet18.a1_in1k")
    assert external.frame(silent, "resnet18.a1_in1k", 224) == Frame(
        224, known.crop_pct, known.interpolation
    )
    for key, value in (
        ("interpolation", "lanczos"),
        ("crop_pct", 1.5),
        ("crop_pct", 1e-9),
        ("crop_pct", "all"),
    ):
        with pytest.raises(ConfigError, match=f"^{key} is None; .*{value}"):
            external.frame(replace(told, config={key: value}), "resnet18", 224)


def test_what_does_not_fit_is_one_sentence(tmp_path):
    settings = SETTINGS["resnet"]
    path = written(tmp_path, trained(settings), architecture="resnet18")
    weights = external.from_file(path)
    wider = replace(settings, kwargs={**RESNET, "channels": [8, 8, 8, 32]})
    with pytest.raises(UserError, match="do not fit resnet18: .*size mismatch for layer4"):
        external.load_backbone(weights, wider)
    with pytest.raises(
        ConfigError, match="^encoder.name is 'resnet34'; the weights of .* are of resnet18$"
    ):
        external.load_backbone(weights, replace(settings, encoder="resnet34"))
    with pytest.raises(
        ConfigError, match="^channels is 1; the weights of .* are for images of 3 channels$"
    ):
        external.load_backbone(weights, replace(settings, channels=1))
    deeper = replace(settings, kwargs={**RESNET, "layers": [1, 1, 1, 2]})
    with pytest.raises(UserError, match="do not fit resnet18: .*Missing key"):
        external.load_backbone(weights, deeper)


def test_a_file_that_is_none_is_one_sentence(tmp_path):
    for given, words in (
        ("weights.pth", "it must be a file named \\*.safetensors"),
        ("missing.safetensors", "there is no file"),
        (".", "there is no file .*model.safetensors"),
    ):
        with pytest.raises(ConfigError, match=f"^external.path is .*{words}"):
            external.from_file(tmp_path / given)
    (tmp_path / "model.safetensors").write_bytes(b"not at all")
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        external.load_backbone(external.from_file(tmp_path), SETTINGS["resnet"])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is not JSON"):
        external.from_file(tmp_path)


def test_the_hub_is_asked_for_a_commit(tmp_path, monkeypatch):
    written(tmp_path, trained(SETTINGS["resnet"]), architecture="resnet18")
    asked = []

    def download(repo, name, revision):
        asked.append((repo, name, revision))
        if repo != "timm/some":
            raise LocalEntryNotFoundError("nobody answers")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    weights = external.from_hub("timm/some", "a" * 40)
    assert asked == [("timm/some", name, "a" * 40) for name in ("model.safetensors", "config.json")]
    assert (weights.name, weights.config["architecture"]) == (
        "timm/some at aaaaaaaaaaaa",
        "resnet18",
    )
    external.load_backbone(weights, SETTINGS["resnet"])
    with pytest.raises(
        ConfigError,
        match="^external.repo is 'timm/other'; its model.safetensors cannot be had at "
        "revision b+: ",
    ):
        external.from_hub("timm/other", "b" * 40)
