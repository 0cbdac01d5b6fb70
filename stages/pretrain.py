"""pretrain: train an encoder on the images of the in-distribution dataset, without their labels.

Reads   data/<dataset>
Writes  results/pretrain/
            encoder.safetensors: the timm backbone alone
            model.safetensors: the whole network
            random.safetensors: the network before its first step, with batch statistics of images
            model.json: how to rebuild them
            views.safetensors: images and their views
        metrics/pretrain.json, plots/pretrain/{loss,diagnostics}.csv
Keeps   .prosmin/checkpoints/<key> during the run, one a minute (PROSMIN_CHECKPOINT_SECONDS). A
            killed run continues from there, to the same bytes, when it is started again with the
            same settings, images, code and machine

With ``pretrain.external`` nothing is trained: weights from elsewhere take the place of the trained
ones. There are no views then, and the diagnostics have one row, at epoch 0.

On a machine with several GPUs the stage starts one process for each; PROSMIN_PROCESSES sets the
number, on a CPU as well. A launcher that already runs (torchrun, accelerate launch) stays in
charge.
``stages.common.launcher`` refuses everything else that Accelerate would take from the environment.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosmin.common.errors import ConfigError, UserError
from prosmin.data.frame import Frame
from prosmin.objectives.settings import External
from stages.common import launcher, workers
from stages.common.command import confirm, leave_to_the_first, run
from stages.params.load import Params
from stages.params.pretrain import Pretrain

if TYPE_CHECKING:  # torch is imported once the process knows what to start
    from torch import Tensor

    from prosmin.data.dataset import Split
    from prosmin.models.store import ModelSettings
    from prosmin.objectives.base import Objective
    from prosmin.training.checkpoint import Checkpoints

log = logging.getLogger(__name__)

CHECKPOINTS = Path(".prosmin/checkpoints")
EXAMPLES = 8  # images whose views the report shows
SAMPLED = 4096  # images of a streamed split that are held in memory, where a sample is enough
MEASURED = 20_000  # images at most, for mean and spread of the channels


def processes_of(gpus: int) -> int:
    """How many processes train: PROSMIN_PROCESSES, or one per GPU."""
    given = workers.processes("PROSMIN_PROCESSES", gpus or 1, 1)
    if gpus and given > gpus:
        there = f"there are only {gpus} GPUs, and each process needs its own"
        raise UserError(f"PROSMIN_PROCESSES is {given}; {there}")
    return given


def checkpoints_of(key: str) -> "Checkpoints":
    """The checkpoints of the run with this key, one every PROSMIN_CHECKPOINT_SECONDS."""
    from prosmin.training.checkpoint import Checkpoints

    every = workers.number("PROSMIN_CHECKPOINT_SECONDS", 60, 0, "seconds, 0 or more")
    return Checkpoints(CHECKPOINTS, key, every)


def main(params: Params) -> None:
    """Train the model, in this process or in several, and write it."""
    settings, launched = params.pretrain, launcher.launched()
    if settings.external:
        if launched and os.environ["RANK"] != "0":
            leave_to_the_first()
        else:
            adopt(params)
        return
    launcher.check_accelerate(settings.precision)
    import torch

    if not launched and (count := processes_of(torch.cuda.device_count())) > 1:
        sys.exit(workers.run("stages.pretrain", count))

    from accelerate import Accelerator

    from prosmin.common import distributed, files
    from prosmin.common.seeds import sample_rows
    from prosmin.data import dataset
    from prosmin.data.feed import Streamed
    from prosmin.models import store
    from prosmin.training.loop import pretrain
    from prosmin.training.monitor import Monitor
    from prosmin.training.state import run_key
    from prosmin.views.make import make_views

    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no" if settings.precision == "fp32" else settings.precision,
    )
    shape = settings.crop_pct or 1.0, settings.interpolation or "bilinear"
    frame = Frame(settings.image_size, *shape)
    names, seen = splits_of(params)
    monitor = None
    # The first process observes and writes. With streamed images, the others hold none in memory.
    if accelerator.is_main_process or not settings.stream:
        splits, images = load_images(params, names, seen, frame)
        sample = sample_rows(len(images), MEASURED, params.seed, "pixels")
        measured = images if len(sample) == len(images) else images[sample]
        statistics = dataset.channel_statistics(measured)
        monitor = Monitor.of(splits, params.seed)
    if settings.stream:
        decoders = workers.decoders(accelerator.num_processes, accelerator.device.type == "cuda")
        feed = Streamed(Path("data") / params.dataset, seen, settings.channels, decoders)
        sent = json.dumps(statistics).encode() if accelerator.is_main_process else None
        statistics = json.loads(distributed.from_main(sent, accelerator.device))
    else:
        feed = images
    described = model_settings(settings, *statistics, frame)
    model = store.build_model(described, params.seed)
    encoder_size = sum(parameter.numel() for parameter in model.encoder.parameters())
    if accelerator.is_main_process:
        network = f"{settings.encoder.name} of {encoder_size / 1e6:.2f} M parameters"
        on = f"{accelerator.num_processes} process(es) on {accelerator.device.type}"
        on = f"{on}, {torch.get_num_threads()} thread(s)"
        log.info("%s, %d images of %s, %s", network, len(feed), " and ".join(seen), on)
        launcher.advise(settings.precision, accelerator.device.type)
    key = run_key(settings, feed, params.seed, accelerator, monitor, model=described)
    checkpoints = checkpoints_of(key)
    if accelerator.is_main_process:
        checkpoints.prune_runs()
    history = pretrain(
        model, feed, settings, params.seed, accelerator, monitor, checkpoints=checkpoints
    )
    if not accelerator.is_main_process:
        leave_to_the_first()
        return
    log.info("%.0f images/s", history.images_per_second)
    confirm(
        "nothing is written. With that undone it goes on from its last checkpoint; "
        "else it trains anew"
    )

    model = model.to("cpu").eval()
    with files.whole_folder("results/pretrain") as out:
        save(out, model, described, images, params, {"images": len(feed)})
        shown = images[sample_rows(len(images), EXAMPLES, params.seed, "examples")]
        both = settings.views.every(settings.image_size)[:2]
        views = make_views(shown, both, params.seed, 0, 0)
        seen_as = torch.stack([(view * 255).round().byte() for view in views], 1)
        arrays = {"images": shown.numpy(), "views": seen_as.numpy()}
        files.write_arrays(out / "views.safetensors", arrays)
    last = history.diagnostics[-1]
    measured = {name: value for name, value in last.items() if name not in ("step", "epoch")}
    rounded = {"loss": history.loss[-1]["loss"], **measured}
    facts = {"epochs": settings.epochs, "steps": last["step"], "images": len(feed)}
    facts |= {"encoder_parameters": encoder_size}
    rounded = {name: files.rounded(value) for name, value in rounded.items()}
    files.write_json("metrics/pretrain.json", rounded | facts)
    for name, rows in (("loss", history.loss), ("diagnostics", history.diagnostics)):
        files.write_csv(
            f"plots/pretrain/{name}.csv", list(rows[0]), [list(row.values()) for row in rows]
        )
    checkpoints.finish()
    accelerator.end_training()


def adopt(params: Params) -> None:
    """Put the weights of ``pretrain.external`` where trained ones would be."""
    from prosmin.common import files
    from prosmin.models import store
    from prosmin.training import external
    from prosmin.training.monitor import Monitor, observe

    settings, given = params.pretrain, params.pretrain.external
    if given.source == "file":
        weights = external.from_file(given.path)
    else:
        weights = external.from_hub(given.repo, given.revision)
    digest = weights.digest()
    if given.source == "file" and given.sha256 not in (None, digest):
        raise ConfigError("external.sha256", given.sha256, f"the file {weights.path} has {digest}")
    told = (given.mean, given.std) if given.mean else None
    normalisation = external.normalisation(weights, settings.encoder.name, settings.channels, told)
    asked = settings.image_size, settings.crop_pct, settings.interpolation
    frame = external.frame(weights, settings.encoder.name, *asked)
    described = model_settings(settings, *normalisation, frame)
    model = store.build_model(described, params.seed)
    model.encoder.backbone.load_state_dict(external.load_backbone(weights, described).state_dict())
    encoder_size = sum(parameter.numel() for parameter in model.encoder.parameters())
    size = encoder_size / 1e6
    log.info("%s of %.2f M parameters, as %s has it", settings.encoder.name, size, weights.name)
    splits, images = load_images(params, *splits_of(params), frame)
    row = observe(model.eval(), Monitor.of(splits, params.seed))
    with files.whole_folder("results/pretrain") as out:
        facts = {"external": {"weights": weights.name, "sha256": digest}}
        save(out, model, described, images, params, facts)
    rounded = {name: files.rounded(value) for name, value in row.items()}
    files.write_json("metrics/pretrain.json", rounded | {"encoder_parameters": encoder_size})
    files.write_csv("plots/pretrain/loss.csv", ("step", "epoch", "loss"), [])
    files.write_csv(
        "plots/pretrain/diagnostics.csv", ("step", "epoch", *row), [[0, 0, *row.values()]]
    )


def splits_of(params: Params) -> tuple[list[str], list[str]]:
    """The splits of the dataset, and those of them whose images are seen.

    The test split is among them only where it is seen.
    """
    from prosmin.data import dataset

    settings, folder = params.pretrain, Path("data") / params.dataset
    names = dataset.split_names(folder)
    seen = [name for name in settings.splits if name in names]
    if not seen:
        raise ConfigError("splits", list(settings.splits), f"{folder} has only {', '.join(names)}")
    return [name for name in names if name != "test" or name in settings.splits], seen


def load_images(
    params: Params, names: Sequence[str], seen: Sequence[str], frame: Frame
) -> "tuple[dict[str, Split], Tensor]":
    """Load splits, of a streamed dataset a sample of each, and the images of those seen.

    Returns: the splits by name, and the images of ``seen`` end to end, uint8 [N, C, S, S]. Both are
    parts of one tensor, so that memory holds the images once.
    """
    from prosmin.data.stored import load_splits

    settings = params.pretrain
    ordered = [*seen, *(name for name in names if name not in seen)]
    limit = SAMPLED if settings.stream else None
    splits, images = load_splits(
        Path("data") / params.dataset, ordered, frame, settings.channels, limit, params.seed
    )
    count = sum(len(splits[name]) for name in seen)
    return {name: splits[name] for name in names}, images[:count]


def save(
    folder: Path,
    model: "Objective",
    described: "ModelSettings",
    images: "Tensor",
    params: Params,
    facts: Mapping[str, Any],
) -> None:
    """Write a model, the same network untrained, and how to rebuild both.

    The untrained network has its initial weights and batch statistics of ``images``.
    images: uint8 [N, C, S, S]. facts: about the training.
    """
    from prosmin import __version__
    from prosmin.models import store
    from prosmin.training.untrained import set_statistics

    untrained = set_statistics(store.build_model(described, params.seed), images, params.seed)
    store.save_state(folder / "encoder.safetensors", model.encoder.backbone.state_dict())
    store.save_state(folder / store.WEIGHTS["trained"], model.state_dict())
    store.save_state(folder / store.WEIGHTS["random"], untrained.state_dict())
    trained = {"prosmin": __version__, "dataset": params.dataset, **facts, "seed": params.seed}
    store.save_description(folder, described, trained | {"params": used(params)})


def used(params: Params) -> dict[str, Any]:
    """The section as JSON, without the path of external weights, which decides nothing."""
    section: dict[str, Any] = params.model_dump(mode="json", by_alias=True)["pretrain"]
    if section["external"]:
        section["external"].pop("path", None)
    return section


def model_settings(
    settings: Pretrain, mean: Sequence[float], std: Sequence[float], frame: Frame | None = None
) -> "ModelSettings":
    """What ``results/pretrain/model.json`` describes. mean, std: of the input, per channel."""
    from prosmin.models.store import ModelSettings

    return ModelSettings(
        encoder=settings.encoder.name,
        image_size=settings.image_size,
        channels=settings.channels,
        mean=tuple(round(value, 6) for value in mean),
        std=tuple(round(max(value, 1e-3), 6) for value in std),
        hidden_dim=settings.projector.hidden_dim,
        dim=settings.projector.dim,
        cifar_stem=settings.encoder.cifar_stem,
        kwargs=settings.encoder.kwargs,
        objective=External() if settings.external else settings.objective,
        crop_pct=frame.crop_pct if frame else 1.0,
        interpolation=frame.interpolation if frame else "bilinear",
    )


if __name__ == "__main__":
    run("pretrain", main)
