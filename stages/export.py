"""export: the whole model in one folder, for ``prosmin predict`` and for timm, with a card.

Reads   results/pretrain, results/embed/<dataset>, results/linear, results/detectors,
        data/<dataset>, metrics/, params.yaml
Writes  results/export/model.safetensors: the weights of the timm model without its classifier
        results/export/config.json: for ``timm.create_model("local-dir:results/export",
            pretrained=True)``; left out for an encoder that timm cannot build by name
            (``pretrain.encoder.cifar_stem``)
        results/export/prosmin.json and safetensors beside it: what ``prosmin.load`` needs besides
            the encoder (``prosmin.predicting.bundle``)
        results/export/model.onnx: with ``export.onnx``, the model for programs without PyTorch
        results/export/README.md: the model card, with data, settings, metrics and their intervals,
            and code that loads the encoder
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from prosmin.common import files
from prosmin.common.encoders import TRAINED, UNTRAINED
from prosmin.common.errors import ConfigError, UserError
from prosmin.data.dataset import open_split, read_manifest
from prosmin.data.frame import Frame
from prosmin.evaluation.ood_detectors import Sample
from prosmin.models.store import WEIGHTS, ModelSettings
from prosmin.predicting import bundle, onnx_file, reference
from prosmin.predicting.model import load
from stages.common import layout
from stages.common.command import run
from stages.common.features import FITTED, load_features
from stages.common.headlines import Row, rows
from stages.detectors import load_detectors, settings
from stages.linear import load_probe
from stages.params.load import PARAMS, Params

# Numbers of batch normalisation that are no parameters.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    try:
        if params.export.onnx:
            onnx_file.require_packages()
    except UserError as error:
        raise ConfigError("export.onnx", True, str(error)) from None
    with _made_by("pretrain"):
        description = files.read_json(layout.DESCRIPTION)
        arrays = files.read_arrays(layout.ENCODER_WEIGHTS)
    with files.whole_folder(layout.EXPORT) as folder:
        # Any part of the description may be missing or damaged.
        with files.decoding(layout.DESCRIPTION):
            model, trained = description["model"], description["trained"]
            write_bundle(folder, params, model)
            if not model["cifar_stem"]:
                files.write_json(folder / "config.json", timm_config(model))
            names = [name for name in arrays if not name.endswith(BUFFERS)]
            parameters = sum(arrays[name].size for name in names)
            with _made_by("fetch"):
                manifest = files.read_metrics(layout.metrics("fetch", trained["dataset"]))
            text = card(params, model, trained, manifest, parameters, rows(params))
            files.write_text(folder / "README.md", text)
        if params.export.onnx:
            onnx_file.write(folder / onnx_file.NAME, load(folder, "cpu"))
    log.info("%s: %s, %.2f M parameters", layout.EXPORT, model["encoder"], parameters / 1e6)


@contextlib.contextmanager
def _made_by(stage: str) -> Iterator[None]:
    """Name the stage that makes a file where the block does not find the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} does not exist; make it with `dvc repro {stage}`"
        ) from None


def write_bundle(folder: Path, params: Params, model: dict[str, Any]) -> None:
    """Write the parts of the model for ``prosmin.load``. model: of ``model.json``."""
    inside, probe = load_features(params.dataset, TRAINED), load_probe(TRAINED)
    fitted, _ = load_detectors(params, TRAINED, inside, probe)
    parts = {split: inside.split(split)[:2] for split in FITTED if split in inside.splits}
    labelled = all((labels >= 0).all() for _, labels in parts.values())
    samples = {
        split: Sample(features, labels=labels if labelled else None)
        for split, (features, labels) in parts.items()
    }
    try:
        known = reference.fit(samples["train"], samples.get("val"), settings(params), fitted)
    except ConfigError as error:
        raise UserError(f"{PARAMS}: ood.{error}") from None
    classes = read_manifest(Path("data") / params.dataset)["classes"]
    facts = bundle.Facts(
        ModelSettings(**model),
        params.dataset,
        tuple(classes) if classes else None,
        _sources(params.dataset, {split: len(part.features) for split, part in samples.items()}),
    )
    with _made_by("pretrain"):
        state = files.read_arrays(layout.PRETRAINED / WEIGHTS[TRAINED])
    bundle.write(folder, layout.ENCODER_WEIGHTS, state, facts, probe, known)


def _sources(dataset: str, counts: dict[str, int]) -> list[str]:
    """The file or row of each image. counts: of images by split."""
    names: list[str] = []
    for split, count in counts.items():
        sources = open_split(Path("data") / dataset, split).sources()
        if len(sources) != count:
            raise UserError(
                f"results/embed has {count} images of {split} of dataset {dataset!r}, which holds "
                f"{len(sources)}; make them anew with `dvc repro embed`"
            )
        names += sources
    return names


def arguments(model: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``timm.create_model`` beside the name, for the encoder of ``model.json``."""
    return {"in_chans": model["channels"], **model["kwargs"]}


def timm_config(model: dict[str, Any]) -> dict[str, Any]:
    """The content of ``config.json`` in the format of timm, whose arguments rebuild the encoder."""
    size = model["image_size"]
    return {
        "architecture": model["encoder"],
        "num_classes": 0,
        "model_args": arguments(model),
        "pretrained_cfg": {
            "input_size": [model["channels"], size, size],
            "mean": list(model["mean"]),
            "std": list(model["std"]),
            # As ``prosmin.data.frame`` cuts images: all numbers on the card are measured so.
            "interpolation": model["interpolation"],
            "crop_pct": model["crop_pct"],
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
    headlines: list[Row],
) -> str:
    """The model card in Markdown, with front matter for model hubs.

    model, trained: of ``model.json``. manifest: of the dataset. parameters: their number.
    headlines: the headline numbers.
    """
    front: dict[str, Any] = {"license": params.export.license} if params.export.license else {}
    front |= {
        "library_name": "timm",
        "tags": [
            "image-feature-extraction",
            *([] if "external" in trained else ["self-supervised-learning", "prosmin"]),
        ],
    }
    if "external" not in trained:  # the dataset of external weights is unknown
        front["datasets"] = [trained["dataset"]]
    frame = Frame(model["image_size"], model["crop_pct"], model["interpolation"])
    floor = params.pretrain.shown[UNTRAINED]
    size, short, channels = (
        frame.size,
        frame.short_side,
        "grey" if model["channels"] == 1 else f"{model['channels']}-channel",
    )
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False).rstrip(), "---", "",
        f"# {params.export.name}", "",
        f"A {model['encoder']} of {parameters / 1e6:.2f} M parameters, {_origin(trained)}.", "",
        "## Use", "",
        f"Input: {channels} images of {size} x {size} pixels as `(pixel / 255 - mean) / std`, "
        f"mean {list(model['mean'])}, std {list(model['std'])}. Output: one feature vector per "
        f"image. All numbers below were measured with the short side resized to {short} pixels "
        f"({frame.interpolation}, antialiased) and the centre cut out.", "",
        "```python", *_loading(model), "```", "",
        "With the package `prosmin` installed, the same folder predicts: class and calibrated "
        "probabilities, a conformal set that holds the label of 90 % of the images, scores of "
        "uncertainty and of unusual images, and the nearest training images. Without labels in the "
        "dataset there are no classes. All thresholds are those of "
        f"`{trained['dataset']}`: for other images they promise nothing.", "",
        "```python",
        "import prosmin",
        "",
        'predictions = prosmin.load("export").predict(["photo.jpg"])',
        "```", "",
        "```sh", "prosmin predict photos --model export --out predictions.parquet", "```", "",
        *(_onnx() if params.export.onnx else ()),
        "## Data", "",
        *_data(trained["dataset"], manifest), "",
        "## Results", "",
        "Intervals are 95 % intervals: Wilson's for a share of images, the score interval with the "
        "variance of the bootstrap for other metrics, and Student's t with Wilson's over draws of "
        f"the labels. *{floor}* is the same network before training. Nothing was chosen "
        "on test images. The numbers describe the frozen features on these datasets, not on "
        "others.", "",
        *_table(headlines, floor), "",
        "## Settings", "",
        "```yaml",
        yaml.safe_dump({"pretrain": _plain(trained["params"])}, sort_keys=False).rstrip(),
        "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _plain(content: Any) -> Any:
    """Sections of a JSON file as plain mappings, which YAML can write."""
    return json.loads(json.dumps(content))


def _origin(trained: dict[str, Any]) -> str:
    """How the encoder was trained, or where its weights come from."""
    if given := trained.get("external"):
        return (
            f"with the unchanged weights of `{given['weights']}` (SHA-256 `{given['sha256']}`); "
            f"evaluated on `{trained['dataset']}` (prosmin {trained['prosmin']})"
        )
    objective = trained["params"]["objective"]
    weights = {objective.get("rule"): objective.get("regression")}
    weights["identification"] = objective.get("identification")
    scores = " and ".join(name for name, weight in weights.items() if name and weight)
    rule = f", {scores} score" if scores else ""
    epochs, batch = (trained["params"][key] for key in ("epochs", "batch_size"))
    start = ""
    if given := trained.get("initial"):
        start = f"started from `{given['weights']}` (SHA-256 `{given['sha256']}`) and "
    return (
        f"{start}trained without labels by `{objective['name']}`{rule} on {trained['images']} "
        f"images of `{trained['dataset']}`, seed {trained['seed']}, {epochs} epochs with batches "
        f"of {batch} images (prosmin {trained['prosmin']})"
    )


def _loading(model: dict[str, Any]) -> Iterator[str]:
    """Python code that loads ``encoder``, to be run in the parent folder of the card."""
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
    yield "# The stem for small images, which timm has no name for."
    yield "width = [*encoder.conv1.modules()][-1].out_channels"
    yield f"stem = nn.Conv2d({model['channels']}, width, 3, stride=1, padding=1, bias=False)"
    yield "encoder.conv1 = stem"
    yield "encoder.maxpool = nn.Identity()"
    yield 'encoder.load_state_dict(load_file("export/model.safetensors"))'
    yield "encoder.eval()"


def _onnx() -> Iterator[str]:
    """How to run the ONNX file."""
    yield (
        f"`{onnx_file.NAME}` gives the same without PyTorch, but for the nearest training images "
        "and the distances to them. Its input is uint8 `[batch, channels, height, width]`, resized "
        "and cut as above:"
    )
    yield from ("", "```py", "import onnxruntime", "")
    yield f'session = onnxruntime.InferenceSession("export/{onnx_file.NAME}")'
    yield "names = [output.name for output in session.get_outputs()]"
    yield from ('outputs = dict(zip(names, session.run(names, {"images": images})))', "```", "")


def _data(dataset: str, manifest: dict[str, Any]) -> Iterator[str]:
    yield f"`{dataset}`, from its manifest:"
    yield ""
    yield from ("```json", json.dumps(manifest, indent=2), "```")


def _table(headlines: list[Row], floor: str) -> Iterator[str]:
    if not headlines:
        yield "None yet: no evaluation has run."
        return
    yield f"| metric | value | 95 % interval | {floor} | interval over |"
    yield "|---|---|---|---|---|"
    for row in headlines:
        over = "" if row.low is None else row.over
        yield f"| {' | '.join((row.label, *row.cells(' – '), over))} |"


if __name__ == "__main__":
    run("export", main)
