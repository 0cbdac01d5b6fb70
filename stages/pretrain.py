"""pretrain: train an encoder on the images of the in-distribution dataset, without their labels.

Reads   data/<dataset>
Writes  results/pretrain/
            encoder.safetensors: the timm backbone alone
            model.safetensors: the whole network
            random.safetensors: the network before its first step, at random weights with batch
                statistics of images, or at those of ``pretrain.initial``
            model.json: how to rebuild them
            views.safetensors: images and their views
        metrics/pretrain.json, plots/pretrain/{loss,diagnostics,probe}.csv, after every epoch
Keeps   .prosmin/checkpoints/<key> during the run, one a minute (PROSMIN_CHECKPOINT_SECONDS). A
            killed run continues from there, to the same bytes, when it is started again with the
            same settings, images, code and machine

With ``pretrain.external`` nothing is trained: weights from elsewhere take the place of the trained
ones. There are no views then, and the diagnostics have one row, at epoch 0.

On a machine with several GPUs the stage starts one process for each; PROSMIN_PROCESSES sets the
number, on a CPU as well. PROSMIN_HOSTS names several hosts, of which the first alone writes
(``stages.common.hosts``). A launcher that already runs (torchrun, accelerate launch) stays in
charge.
``stages.common.launcher`` refuses everything else that Accelerate would take from the environment.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosmin.common.errors import UserError
from prosmin.data.frame import Frame
from stages.common import hosts, launcher, layout, trackers, workers
from stages.common.command import confirm, leave_to_the_first, run
from stages.common.peers import Peers
from stages.common.pretraining import (
    Live,
    found,
    initial_weights,
    load_images,
    model_settings,
    save,
    seen_by,
    splits_of,
    write_curves,
)
from stages.params.load import Params

if TYPE_CHECKING:  # torch is imported once the process knows what to start
    from prosmin.models.store import ModelSettings
    from prosmin.training.checkpoint import Checkpoints
    from prosmin.training.watch.progress import Progress

log = logging.getLogger(__name__)

# Settings that decide no weight: what ``initial`` names is known by its weights.
UNDECIDED = ("initial", "stop_below")
EXAMPLES = 8  # images whose views the report shows
MEASURED = 20_000  # images at most, for mean and spread of the channels


def processes_of(gpus: int) -> int:
    """How many processes train: PROSMIN_PROCESSES, or one per GPU."""
    given = workers.number_of_processes("PROSMIN_PROCESSES", gpus or 1, 1)
    check_gpus(f"PROSMIN_PROCESSES is {given}", given, gpus)
    return given


def check_gpus(what: str, processes: int, gpus: int) -> None:
    """Raise ``UserError``, which begins with ``what``, for more processes than GPUs."""
    if gpus and processes > gpus:
        there = f"there are only {gpus} GPUs, and each process needs its own"
        raise UserError(f"{what}; {there}")


def checkpoints_of(
    key: str, model: "ModelSettings | None" = None, like: str = "", lent: bool = False
) -> "Checkpoints":
    """The checkpoints of the run with this key, one every PROSMIN_CHECKPOINT_SECONDS."""
    from prosmin.training.checkpoint import Checkpoints

    every = workers.number("PROSMIN_CHECKPOINT_SECONDS", 60, 0, "seconds, 0 or more")
    return Checkpoints(layout.checkpoints(), key, every, model, like, lent)


def main(params: Params) -> None:
    """Train the model, in this process or in several, and write it."""
    settings, launched = params.pretrain, launcher.launched()
    several = None if launched else hosts.given()
    if settings.external:
        if os.environ["RANK"] != "0" if launched else several and several.number:
            leave_to_the_first()
        else:
            adopt(params)
        return
    launcher.check_accelerate(settings.precision)
    import torch

    from prosmin.data import dataset

    gpus = torch.cuda.device_count()
    if several:
        what = f"{hosts.VARIABLE} starts {several.processes} processes on this host"
        check_gpus(what, several.processes, gpus)
        dataset.read_manifest(Path("data") / params.dataset)  # before the other hosts wait for it
        sys.exit(hosts.run("stages.pretrain", several))
    if not launched and (count := processes_of(gpus)) > 1:
        sys.exit(workers.run("stages.pretrain", count))
    with Peers("pretrain") as peers:
        train(params, peers.place.hosts > 1)


def train(params: Params, several: bool) -> None:
    """Train in this process, alone or as one of several; the first writes the model.

    several: hosts. Such a run may go on with another number of processes.
    """
    settings = params.pretrain
    import torch
    from accelerate import Accelerator

    from prosmin.common import distributed, files
    from prosmin.common.seeds import sample_rows
    from prosmin.data import dataset
    from prosmin.data.feed import Streamed
    from prosmin.models import store
    from prosmin.training.loop import pretrain
    from prosmin.training.state import run_key
    from prosmin.training.watch.monitor import Monitor
    from prosmin.views.make import make_views

    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no" if settings.precision == "fp32" else settings.precision,
        **trackers.options(),
    )
    shape = settings.crop_pct or 1.0, settings.interpolation or "bilinear"
    frame = Frame(settings.image_size, *shape)
    if initial := initial_weights(settings):
        statistics, frame = seen_by(initial.weights, settings, "initial")
    names, seen = splits_of(params)
    monitor = None
    # The first process observes and writes. With streamed images, the others hold none in memory.
    if accelerator.is_main_process or not settings.stream:
        splits, images = load_images(params, names, seen, frame)
        if not initial:
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
    facts: dict[str, Any] = {"images": len(feed)}
    if initial:
        heads = initial.place(model, described)
        facts["initial"] = initial.weights.facts() | {"heads": heads}
    encoder_size = sum(parameter.numel() for parameter in model.encoder.parameters())
    if accelerator.is_main_process:
        network = f"{settings.encoder.name} of {encoder_size / 1e6:.2f} M parameters"
        on = f"{accelerator.num_processes} process(es) on {accelerator.device.type}"
        on = f"{on}, {torch.get_num_threads()} thread(s)"
        log.info("%s, %d images of %s, %s", network, len(feed), " and ".join(seen), on)
        launcher.advise(settings.precision, accelerator.device.type)
        if initial:
            taken = "encoder and heads" if heads else "encoder, with heads at random weights"
            log.info("starts from %s: %s", initial.weights.name, taken)
    given = dataset.checksum(*model.state_dict().values()) if initial else None

    def kept(*without: str) -> "Checkpoints":
        run = settings, feed, params.seed, accelerator, monitor, without
        key, like = (
            run_key(*run, alike, model=described, initial=given) for alike in (False, True)
        )
        return checkpoints_of(key, described, like, lent=several)

    checkpoints = kept(*UNDECIDED)
    trunk = kept(*UNDECIDED, "epochs") if settings.decay_epochs else None
    if accelerator.is_main_process:
        checkpoints.prune_runs(trunk)
    counts = {"images": len(feed), "encoder_parameters": encoder_size}
    live = Live(counts, len(feed) // settings.batch_size)
    send = trackers.start(accelerator, checkpoints.key)

    def tell(now: "Progress") -> None:
        live.tell(now)
        send(now)

    history = pretrain(
        *(model, feed, settings, params.seed, accelerator, monitor),
        checkpoints=checkpoints,
        trunk=trunk,
        tell=tell,
    )
    if not accelerator.is_main_process:
        leave_to_the_first()
        return
    log.info("%.0f images/s", history.images_per_second)
    if history.continued:  # the settings alone do not tell such weights
        facts["continued"] = history.continued
    confirm(
        "nothing is written. With that undone it goes on from its last checkpoint; "
        "else it trains anew"
    )

    model = model.to("cpu").eval()
    with files.whole_folder("results/pretrain") as out:
        save(out, model, described, images, params, facts, initial)
        shown = images[sample_rows(len(images), EXAMPLES, params.seed, "examples")]
        both = settings.views.every(settings.image_size)[:2]
        views = make_views(shown, both, params.seed, 0, 0)
        seen_as = torch.stack([(view * 255).round().byte() for view in views], 1)
        arrays = {"images": shown.numpy(), "views": seen_as.numpy()}
        files.write_arrays(out / "views.safetensors", arrays)
    live.write(history, history.diagnostics[-1]["step"])
    checkpoints.finish()
    accelerator.end_training()


def adopt(params: Params) -> None:
    """Put the weights of ``pretrain.external`` where trained ones would be."""
    from prosmin.common import files
    from prosmin.models import store
    from prosmin.training.state import History
    from prosmin.training.watch.monitor import Monitor, observe
    from prosmin.training.weights import external

    settings = params.pretrain
    assert settings.external is not None
    weights = found(settings.external, "external")
    normalisation, frame = seen_by(weights, settings, "external")
    described = model_settings(settings, *normalisation, frame)
    model = store.build_model(described, params.seed)
    model.encoder.backbone.load_state_dict(external.load_backbone(weights, described).state_dict())
    encoder_size = sum(parameter.numel() for parameter in model.encoder.parameters())
    size = encoder_size / 1e6
    log.info("%s of %.2f M parameters, as %s has it", settings.encoder.name, size, weights.name)
    splits, images = load_images(params, *splits_of(params), frame)
    row = observe(model.eval(), Monitor.of(splits, params.seed))
    with files.whole_folder("results/pretrain") as out:
        save(out, model, described, images, params, {"external": weights.facts()})
    rounded = {name: files.rounded(value) for name, value in row.items()}
    files.write_json("metrics/pretrain.json", rounded | {"encoder_parameters": encoder_size})
    write_curves(History(diagnostics=[{"step": 0, "epoch": 0, **row}]))


if __name__ == "__main__":
    run("pretrain", main)
