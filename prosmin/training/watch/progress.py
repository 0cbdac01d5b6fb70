"""Who watches a run, how often, and what they are told."""

from collections.abc import Callable
from dataclasses import dataclass

from prosmin.common.errors import ConfigError, UserError
from prosmin.training.settings import STOPPED, StopBelow, TrainSettings
from prosmin.training.state import History
from prosmin.training.watch.monitor import Monitor

WITHOUT_LABELS = ("rankme", "feature_std")  # diagnostics that ``StopBelow`` may name without labels


class Hopeless(UserError):
    """A diagnostic is below the limit of ``TrainSettings.stop_below``."""

    def __init__(self, limit: StopBelow, value: float, epoch: int):
        super().__init__(
            f"{STOPPED} after epoch {epoch}: {limit.metric} is {value:.4g}, below {limit.value:g} "
            "(pretrain.stop_below); without that key it goes on from its last checkpoint"
        )


@dataclass(frozen=True)
class Progress:
    """How far a run is after an epoch.

    history: of the whole run. step: of the whole run.
    images_per_second: over all processes. seconds_left: NaN before the first step.
    """

    history: History
    step: int
    images_per_second: float
    seconds_left: float


Tell = Callable[[Progress], None]


@dataclass(frozen=True)
class Watch:
    """Who watches a run.

    monitor: the images that are observed. observations: about how many, over the run.
    tell: is called after every epoch.
    """

    monitor: Monitor | None = None
    observations: int = 20
    tell: Tell | None = None

    def every(self, settings: TrainSettings) -> int:
        """The number of epochs between two observations.

        Where a run may be extended it is a power of two: with more epochs, rows of diagnostics are
        left out and none comes to lie between two others.
        """
        epochs = max(1, settings.epochs // self.observations)
        return epochs if settings.decay_epochs is None else 1 << (epochs.bit_length() - 1)

    def check(self, limit: StopBelow | None) -> None:
        """Raise ``ConfigError`` for a limit of a diagnostic that needs labels, without labels."""
        unlabelled = self.monitor is not None and self.monitor.bank is None
        if limit is not None and unlabelled and limit.metric not in WITHOUT_LABELS:
            needed = "it needs labels in train and val"
            allowed = f"{needed}; choose {' or '.join(WITHOUT_LABELS)}"
            raise ConfigError("stop_below.metric", limit.metric, allowed)
