"""pretrain: ProSMIN on the images of the in-distribution dataset, labels unseen.

Reads   data/<dataset>
Writes  results/pretrain/    encoder.safetensors (the timm backbone alone), model.safetensors, random.safetensors (the
                             same network before its first step, with batch statistics of the images), model.json (how to rebuild them), views.safetensors
        metrics/pretrain.json, plots/pretrain/{loss,diagnostics}.csv

Keeps   .prosmin/checkpoints/<key> while it runs, about one a minute (PROSMIN_CHECKPOINT_SECONDS): a run that was killed goes
        on from there when it is started again with the same settings, images, code and machine, to the same bytes

With ``pretrain.external`` nothing is trained: the weights of others take the place of the trained ones, without views, and the
only look at the diagnostics is the one at epoch 0.

On a machine with several GPUs it starts one process for each; PROSMIN_PROCESSES sets the number (on a CPU as well), and a
launcher that is already running (torchrun, accelerate launch) is left in charge. What else Accelerate would take from the
environment is refused (``stages.common.launcher``).
"""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosmin.common.errors import ConfigError, UserError
from prosmin.objectives.settings import External
from stages.common import launcher, workers
from stages.common.command import confirm, leave_to_the_first, run
from stages.common.threads import cores
from stages.params.load import Params
from stages.params.pretrain import Pretrain

if TYPE_CHECKING:  # torch is imported once the process knows what to start
    from torch import Tensor

    from prosmin.data.dataset import Split
    from prosmin.models.store import ModelSettings
    from prosmin.objectives.base import Objective
    from prosmin.training.checkpoint import Checkpoints
    from prosmin.training.external import Weights

log = logging.getLogger(__name__)

CHECKPOINTS = Path(".prosmin/checkpoints")
EXAMPLES = 8  # images whose views the report shows
SAMPLED = (
    4096  # so many images of a split that is streamed stand for all of them where a sample will do
)
MEASURED = 20_000  # at most so many images behind the mean and spread of the channels


def processes_of(gpus: int) -> int:
    """How many processes are to train: PROSMIN_PROCESSES, or one for each GPU."""
    given = os.environ.get("PROSMIN_PROCESSES", str(gpus or 1))
    if not given.isdecimal() or int(given) < 1:
        raise UserError(
            f"PROSMIN_PROCESSES is {given!r}; it must be a number of processes, at least 1"
        )
    if gpus and int(given) > gpus:
        raise UserError(
            f"PROSMIN_PROCESSES is {given}; there are only {gpus} GPUs, and each process needs its own"
        )
    return int(given)


def workers_of(processes: int, gpu: bool) -> int:
    """How many processes decode images for each that trains: PROSMIN_WORKERS, or its share of the cores (on a CPU one, beside it)."""
    share = max(1, cores() // processes) if gpu else 1
    given = os.environ.get("PROSMIN_WORKERS", str(share))
    if not given.isdecimal():
        raise UserError(
            f"PROSMIN_WORKERS is {given!r}; it must be a number of processes, 0 or more"
        )
    return int(given)


def main(params: Params) -> None:
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

    from prosmin.common import files
    from prosmin.common.seeds import sample_rows
    from prosmin.models import store
    from prosmin.training.loop import pretrain
    from prosmin.training.monitor import Monitor
    from prosmin.training.state import run_key
    from prosmin.views.feed import Streamed
    from prosmin.views.make import make_views

    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no" if settings.precision == "fp32" else settings.precision,
    )
    splits, seen = splits_of(params)
    images = torch.cat([splits[name].images for name in seen])
    feed = images
    if settings.stream:
        workers_here = workers_of(accelerator.num_processes, accelerator.device.type == "cuda")
        feed = Streamed(Path("data") / params.dataset, seen, settings.channels, workers_here)
    pixels = images[sample_rows(len(images), MEASURED, params.seed, "pixels")].float() / 255.0
    described = model_settings(
        settings, pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist()
    )
    model = store.build_model(described, params.seed)
    encoder_size = sum(parameter.numel() for parameter in model.encoder.parameters())
    if accelerator.is_main_process:
        log.info(
            "%s of %.2f M parameters, %d images of %s, %d process(es) on %s, %d thread(s)",
            settings.encoder.name,
            encoder_size / 1e6,
            len(feed),
            " and ".join(seen),
            accelerator.num_processes,
            accelerator.device.type,
            torch.get_num_threads(),
        )
    monitor = Monitor.of(splits, params.seed)
    checkpoints = checkpoints_of(
        run_key(settings, feed, params.seed, accelerator, monitor, model=described)
    )
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
        "nothing is written. With that undone it goes on from its last checkpoint; else it trains anew"
    )

    model = model.to("cpu").eval()
    with files.whole_folder("results/pretrain") as out:
        save(out, model, described, images, params, {"images": len(feed)})
        shown = images[sample_rows(len(images), EXAMPLES, params.seed, "examples")]
        views = make_views(
            shown, [settings.views.whole(settings.image_size)] * 2, params.seed, 0, 0
        )
        files.write_arrays(
            out / "views.safetensors",
            {
                "images": shown.numpy(),
                "views": torch.stack([(view * 255).round().byte() for view in views], 1).numpy(),
            },
        )
    last = history.diagnostics[-1]
    files.write_json(
        "metrics/pretrain.json",
        {
            "loss": files.rounded(history.loss[-1]["loss"]),
            **{
                name: files.rounded(value)
                for name, value in last.items()
                if name not in ("step", "epoch")
            },
            "epochs": settings.epochs,
            "steps": last["step"],
            "images": len(feed),
            "encoder_parameters": encoder_size,
        },
    )
    for name, rows in (("loss", history.loss), ("diagnostics", history.diagnostics)):
        files.write_csv(
            f"plots/pretrain/{name}.csv", list(rows[0]), [list(row.values()) for row in rows]
        )
    checkpoints.finish()
    accelerator.end_training()


def adopt(params: Params) -> None:
    """Put the weights of ``pretrain.external`` where trained ones would be."""
    import torch

    from prosmin.common import files
    from prosmin.models import store
    from prosmin.training import external
    from prosmin.training.monitor import Monitor, observe

    settings, given = params.pretrain, params.pretrain.external
    weights = (
        external.from_file(given.path)
        if given.source == "file"
        else external.from_hub(given.repo, given.revision)
    )
    digest = weights.digest()
    if given.source == "file" and given.sha256 not in (None, digest):
        raise ConfigError("external.sha256", given.sha256, f"the file {weights.path} has {digest}")
    described = model_settings(settings, *normalisation_of(settings, weights))
    model = store.build_model(described, params.seed)
    model.encoder.backbone.load_state_dict(external.load_backbone(weights, described).state_dict())
    encoder_size = sum(parameter.numel() for parameter in model.encoder.parameters())
    log.info(
        "%s of %.2f M parameters, as %s has it",
        settings.encoder.name,
        encoder_size / 1e6,
        weights.name,
    )
    splits, seen = splits_of(params)
    row = observe(model.eval(), Monitor.of(splits, params.seed))
    with files.whole_folder("results/pretrain") as out:
        facts = {"external": {"weights": weights.name, "sha256": digest}}
        images = torch.cat([splits[name].images for name in seen])
        save(out, model, described, images, params, facts)
    rounded = {name: files.rounded(value) for name, value in row.items()}
    files.write_json("metrics/pretrain.json", rounded | {"encoder_parameters": encoder_size})
    files.write_csv("plots/pretrain/loss.csv", ("step", "epoch", "loss"), [])
    files.write_csv(
        "plots/pretrain/diagnostics.csv", ("step", "epoch", *row), [[0, 0, *row.values()]]
    )


def normalisation_of(settings: Pretrain, weights: "Weights") -> tuple[list[float], list[float]]:
    """Mean and std of the input of an external encoder: as given, or as its weights say."""
    given = settings.external
    found = (given.mean, given.std) if given.mean else weights.normalisation(settings.encoder.name)
    if found is None:
        raise ConfigError(
            "external.mean",
            None,
            f"no config.json beside the weights of {weights.name} says how their input was normalised; give mean and std",
        )
    if len(found[0]) != settings.channels:
        raise ConfigError(
            "channels",
            settings.channels,
            f"the input of {weights.name} is normalised as {len(found[0])} channels",
        )
    return list(found[0]), list(found[1])


def splits_of(params: Params) -> "tuple[dict[str, Split], list[str]]":
    """The splits of the dataset, test only where it is to be seen; and which of them are to be seen. Of those that are streamed a
    sample."""
    from prosmin.common.seeds import sample_rows
    from prosmin.data import dataset

    settings, folder = params.pretrain, Path("data") / params.dataset
    names, manifest = dataset.split_names(folder), dataset.read_manifest(folder)
    seen = [name for name in settings.splits if name in names]
    if not seen:
        raise ConfigError("splits", list(settings.splits), f"{folder} has only {', '.join(names)}")
    return {
        name: dataset.load_split(
            folder,
            name,
            settings.image_size,
            settings.channels,
            sample_rows(manifest["splits"][name]["count"], SAMPLED, params.seed, f"streamed {name}")
            if settings.stream
            else None,
        )
        for name in names
        if name != "test" or name in settings.splits
    }, seen


def save(
    folder: Path,
    model: "Objective",
    described: "ModelSettings",
    images: "Tensor",
    params: Params,
    facts: Mapping[str, Any],
) -> None:
    """Write a model, its floor, and how to rebuild both.

    The floor is the network before its first step, with batch statistics of ``images``.
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


def model_settings(settings: Pretrain, mean: list[float], std: list[float]) -> "ModelSettings":
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
    )


def checkpoints_of(key: str) -> "Checkpoints":
    from prosmin.training.checkpoint import Checkpoints

    given = os.environ.get("PROSMIN_CHECKPOINT_SECONDS", "60")
    try:
        every = float(given)
    except ValueError:
        every = -1.0
    if not 0 <= every < float("inf"):
        raise UserError(
            f"PROSMIN_CHECKPOINT_SECONDS is {given!r}; it must be a number of seconds, 0 or more"
        )
    return Checkpoints(CHECKPOINTS, key, every)


if __name__ == "__main__":
    run("pretrain", main)
