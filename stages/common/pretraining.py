"""What pretraining reads and writes: given weights, images, and the folder of the model."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosmin.common import files
from prosmin.common.errors import ConfigError
from prosmin.data.frame import Frame
from prosmin.objectives.settings import External
from stages.common import layout
from stages.params.load import Params
from stages.params.pretrain import FileWeights, HubWeights, Pretrain

if TYPE_CHECKING:  # torch is imported once the process knows what to start
    from torch import Tensor

    from prosmin.data.dataset import Split
    from prosmin.models.store import ModelSettings
    from prosmin.objectives.base import Objective
    from prosmin.training.state import History
    from prosmin.training.watch.progress import Progress
    from prosmin.training.weights.external import Weights
    from prosmin.training.weights.initial import Initial

log = logging.getLogger(__name__)

Normalisation = tuple[Sequence[float], Sequence[float]]

PLACE, PROBE = ("step", "epoch"), "probe_accuracy"
SAMPLED = 4096  # images of a streamed split that are held in memory, where a sample is enough


# --- weights from elsewhere -----------------------------------------------------------------------


def found(given: FileWeights | HubWeights, key: str) -> "Weights":
    """The weights that ``pretrain.<key>`` names."""
    from prosmin.training.weights import external

    if isinstance(given, FileWeights):
        return external.from_file(given.path, key, given.sha256)
    return external.from_hub(given.repo, given.revision, key)


def initial_weights(settings: Pretrain) -> "Initial | None":
    """The weights of ``pretrain.initial``; None where training starts from random ones.

    Raises:
        ConfigError: for a path in this project's results, which its stages write anew.
    """
    from prosmin.training.weights.initial import Initial, from_run

    given = settings.initial
    if given is None:
        return None
    if not isinstance(given, HubWeights):
        path = Path(given.path).expanduser().resolve()
        if path.is_relative_to(layout.RESULTS.resolve()):
            own = "this run writes that folder anew; copy it to another place and name the copy"
            raise ConfigError("initial.path", given.path, own)
    if isinstance(given, FileWeights | HubWeights):
        return Initial(found(given, "initial"))
    return from_run(given.path, "initial", given.sha256)


def seen_by(weights: "Weights", settings: Pretrain, key: str) -> tuple[Normalisation, Frame]:
    """How an image becomes the input of given weights: mean and std per channel, and its frame.

    key: of the section of ``pretrain`` that names the weights and may say mean and std.
    """
    from prosmin.training.weights import external

    given, told = getattr(settings, key), None
    if isinstance(given, FileWeights | HubWeights) and given.mean and given.std:
        told = given.mean, given.std
    name = settings.encoder.name
    normalisation = external.normalisation(weights, name, settings.channels, told, key)
    asked = settings.image_size, settings.crop_pct, settings.interpolation
    return normalisation, external.frame(weights, name, *asked)


# --- images ---------------------------------------------------------------------------------------


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


# --- curves ---------------------------------------------------------------------------------------


class Live:
    """Curves and numbers of a run on the disk while it trains, for ``dvc plots`` and editors.

    The numbers of the last write but one are of the run so far; speed and time left are among them.
    ``write`` at the end leaves neither: they would differ each time.

    facts: numbers of the run that do not change. every: seconds between two writes, at least.
    """

    def __init__(self, facts: Mapping[str, Any], steps_per_epoch: int, every: float = 1.0):
        self.facts, self.steps_per_epoch, self.every = facts, steps_per_epoch, every
        self._last = -math.inf

    def tell(self, progress: "Progress") -> None:
        """Write how far the run is, unless that was done a moment ago.

        A full disk costs this write and a line in the log.
        """
        if time.monotonic() - self._last < self.every:
            return
        now = {
            "images_per_second": round(progress.images_per_second, 1),
            "seconds_left": None
            if math.isnan(progress.seconds_left)
            else round(progress.seconds_left),
        }
        try:
            self.write(progress.history, progress.step, now)
        except OSError as error:
            log.warning("the curves cannot be written (%s); training goes on", error.strerror)
        self._last = time.monotonic()

    def write(
        self, history: "History", step: int, now: Mapping[str, float | None] | None = None
    ) -> None:
        """Write curves and numbers. now: numbers of the moment."""
        last = history.diagnostics[-1] if history.diagnostics else {}
        measured = {name: value for name, value in last.items() if name not in PLACE}
        loss = {"loss": history.loss[-1]["loss"]} if history.loss else {}
        rounded = {name: files.rounded(value) for name, value in (loss | measured).items()}
        counts = {"epochs": step // self.steps_per_epoch, "steps": step}
        files.write_json(layout.metrics("pretrain"), rounded | counts | self.facts | (now or {}))
        write_curves(history)


def write_curves(history: "History") -> None:
    """Write the curves of a run; those without a row have their head alone."""
    probe = [
        {name: row[name] for name in (*PLACE, PROBE)} for row in history.diagnostics if PROBE in row
    ]
    seen = [{name: row[name] for name in row if name != PROBE} for row in history.diagnostics]
    for path, name, rows in (
        (layout.LOSS, "loss", history.loss),
        (layout.DIAGNOSTICS, "rankme", seen),
        (layout.ONLINE_PROBE, PROBE, probe),
    ):
        columns = list(rows[0]) if rows else [*PLACE, name]
        files.write_csv(path, columns, [list(row.values()) for row in rows])


# --- the model ------------------------------------------------------------------------------------


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


def before_training(
    described: "ModelSettings", images: "Tensor", seed: int, initial: "Initial | None" = None
) -> "Objective":
    """The network whose numbers stand beside those of the trained one.

    At random weights it gets batch statistics of ``images``. Given weights keep their own.
    images: uint8 [N, C, S, S].
    """
    from prosmin.models import store
    from prosmin.training.weights.untrained import set_statistics

    model = store.build_model(described, seed)
    if initial is None:
        return set_statistics(model, images, seed)
    with_heads = initial.place(model, described)
    return model if with_heads else set_statistics(model, images, seed, but=model.encoder)


def save(
    folder: Path,
    model: "Objective",
    described: "ModelSettings",
    images: "Tensor",
    params: Params,
    facts: Mapping[str, Any],
    initial: "Initial | None" = None,
) -> None:
    """Write a model, the same network before training, and how to rebuild both.

    images: uint8 [N, C, S, S]. facts: about the training.
    initial: weights that training has started from.
    """
    import torch

    from prosmin import __version__
    from prosmin.common.seeds import sample_rows
    from prosmin.models import store
    from prosmin.objectives.doubts import CANDIDATES

    before = before_training(described, images, params.seed, initial)
    rows = torch.from_numpy(sample_rows(len(images), CANDIDATES, params.seed, "candidates"))
    shown = images[rows]
    for network in (model, before):
        network.eval().set_candidates(shown)
    store.save_state(folder / layout.ENCODER_WEIGHTS.name, model.encoder.backbone.state_dict())
    store.save_state(folder / store.WEIGHTS["trained"], model.state_dict())
    store.save_state(folder / store.WEIGHTS["random"], before.state_dict())
    trained = {"prosmin": __version__, "dataset": params.dataset, **facts, "seed": params.seed}
    store.save_description(folder, described, trained | {"params": used(params)})


def used(params: Params) -> dict[str, Any]:
    """The section as JSON, without paths of weights from elsewhere, which decide nothing."""
    section: dict[str, Any] = params.model_dump(mode="json", by_alias=True)["pretrain"]
    for key in ("external", "initial"):
        if section[key]:
            section[key].pop("path", None)
    return section
