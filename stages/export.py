"""export: the encoder for others, as files that timm loads, with a model card.

Reads   results/pretrain, metrics/, params.yaml
Writes  results/export/model.safetensors: the weights of the timm model without its classifier
        results/export/config.json: with it ``timm.create_model("local-dir:results/export", pretrained=True)`` gives the
            encoder; left out for one that timm cannot build by name (``pretrain.encoder.cifar_stem``)
        results/export/README.md: the model card, with data, settings, metrics and their intervals, and how to load it
"""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from prosmin.common import files
from prosmin.common.errors import UserError
from stages.common.command import run
from stages.common.headlines import Row, rows
from stages.params.load import Params

PRETRAINED = Path("results/pretrain")

# Of batch normalisation: numbers that are no parameters.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    try:
        description = files.read_json(PRETRAINED / "model.json")
        weights = PRETRAINED / "encoder.safetensors"
        arrays = files.read_arrays(weights)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} does not exist; make it with `dvc repro pretrain`"
        ) from None
    # All that is written of it is made of this one file, of which anything may be missing or other than it was.
    damaged = files.decoding(PRETRAINED / "model.json", "make it again with `dvc repro pretrain`")
    with files.whole_folder("results/export") as folder, damaged:
        model, trained = description["model"], description["trained"]
        shutil.copyfile(weights, folder / "model.safetensors")
        if not model["cifar_stem"]:
            files.write_json(folder / "config.json", timm_config(model))
        parameters = sum(array.size for name, array in arrays.items() if not name.endswith(BUFFERS))
        try:
            manifest = files.read_metrics(f"metrics/fetch/{trained['dataset']}.json")
        except FileNotFoundError as error:
            raise UserError(
                f"{error.filename} does not exist; make it with `dvc repro fetch`"
            ) from None
        files.write_text(
            folder / "README.md", card(params, model, trained, manifest, parameters, rows(params))
        )
    log.info("results/export: %s, %.2f M parameters", model["encoder"], parameters / 1e6)


def arguments(model: dict[str, Any]) -> dict[str, Any]:
    """What ``timm.create_model`` needs beside the name to build the encoder of ``model.json``, whose classes are none."""
    return {"in_chans": model["channels"], **model["kwargs"]}


def timm_config(model: dict[str, Any]) -> dict[str, Any]:
    """``config.json`` as timm writes it for its own models: the saved arguments rebuild the encoder."""
    size = model["image_size"]
    return {
        "architecture": model["encoder"],
        "num_classes": 0,
        "model_args": arguments(model),
        "pretrained_cfg": {
            "input_size": [model["channels"], size, size],
            "mean": list(model["mean"]),
            "std": list(model["std"]),
            # As ``prosmin.data.dataset`` reads images, with which all numbers on the card were measured.
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "num_classes": 0,
        },
    }


def card(
    params: Params,
    model: dict[str, Any],
    trained: dict[str, Any],
    manifest: dict[str, Any],
    parameters: int,
    found: list[Row],
) -> str:
    """The model card in Markdown, with the front matter that model hubs read."""
    front = {"license": params.export.license} if params.export.license else {}
    front |= {
        "library_name": "timm",
        "tags": [
            "image-feature-extraction",
            *([] if "external" in trained else ["self-supervised-learning", "prosmin"]),
        ],
    }
    if "external" not in trained:  # what others have trained it on is not known here
        front["datasets"] = [trained["dataset"]]
    size, channels = (
        model["image_size"],
        "grey" if model["channels"] == 1 else f"{model['channels']}-channel",
    )
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False).rstrip(), "---", "",
        f"# {params.export.name}", "",
        f"A {model['encoder']} of {parameters / 1e6:.2f} M parameters, {_origin(trained)}.", "",
        "## Use", "",
        f"Input: {channels} images of {size} x {size} pixels as `(pixel / 255 - mean) / std`, mean {list(model['mean'])}, "
        f"std {list(model['std'])}. Output: one feature vector an image. All numbers below were measured so: the short side resized to {size} "
        "pixels (bilinear, antialiased), the centre cut out.", "",
        "```python", *_loading(model), "```", "",
        "## Data", "",
        *_data(trained["dataset"], manifest), "",
        "## Results", "",
        "With 95 % intervals (of a share of images Wilson's, of another metric the score interval with the bootstrap's variance; over draws of "
        "the labels Student's t and Wilson's together), beside the same network before training. Nothing was chosen on test "
        "images. They say what the frozen features are worth on these sets, and nothing of others.", "",
        *_table(found), "",
        "## Settings", "",
        "```yaml", yaml.safe_dump({"pretrain": _plain(trained["params"])}, sort_keys=False).rstrip(), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _plain(content: Any) -> Any:
    """Sections of a JSON file as the plain mappings that YAML writes."""
    return json.loads(json.dumps(content))


def _origin(trained: dict[str, Any]) -> str:
    """By whom and how it was trained."""
    if given := trained.get("external"):
        return (
            f"its weights those of `{given['weights']}` (SHA-256 `{given['sha256']}`), not changed; "
            f"evaluated on `{trained['dataset']}` (prosmin {trained['prosmin']})"
        )
    objective = trained["params"]["objective"]
    rule = f", {objective['rule']} score" if objective["name"] == "prosmin" else ""
    return (
        f"trained without labels by `{objective['name']}`{rule} on {trained['images']} images of `{trained['dataset']}`, "
        f"seed {trained['seed']}, {trained['params']['epochs']} epochs of {trained['params']['batch_size']} images a step "
        f"(prosmin {trained['prosmin']})"
    )


def _loading(model: dict[str, Any]) -> Iterator[str]:
    """Python that gives ``encoder``, in the folder above the one of the card."""
    yield "import timm"
    if not model["cifar_stem"]:
        yield ""
        yield 'encoder = timm.create_model("local-dir:export", pretrained=True).eval()'
        return
    given = "".join(f", {name}={value!r}" for name, value in arguments(model).items())
    yield "from safetensors.torch import load_file"
    yield "from torch import nn"
    yield ""
    yield f"encoder = timm.create_model({model['encoder']!r}, num_classes=0{given})"
    yield "width = [*encoder.conv1.modules()][-1].out_channels  # the stem for small images, which timm has no name for"
    yield f"encoder.conv1 = nn.Conv2d({model['channels']}, width, 3, stride=1, padding=1, bias=False)"
    yield "encoder.maxpool = nn.Identity()"
    yield 'encoder.load_state_dict(load_file("export/model.safetensors"))'
    yield "encoder.eval()"


def _data(dataset: str, manifest: dict[str, Any]) -> Iterator[str]:
    yield f"`{dataset}`, as its manifest has it:"
    yield ""
    yield from ("```json", json.dumps(manifest, indent=2), "```")


def _table(found: list[Row]) -> Iterator[str]:
    if not found:
        yield "None yet: no evaluation has run."
        return
    yield "| metric | value | 95 % interval | before training | interval over |"
    yield "|---|---|---|---|---|"
    for row in found:
        over = "" if row.low is None else row.over
        yield f"| {' | '.join((row.label, *row.cells(' – '), over))} |"


if __name__ == "__main__":
    run("export", main)
