"""TensorBoard and MLflow beside the files of a run, by Accelerate's trackers. Off by default.

PROSMIN_TRACKERS names them. It is no parameter: it changes no result, and no stage runs again.
"""

import math
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosmin.common.errors import UserError, nearest

if TYPE_CHECKING:
    from accelerate import Accelerator

    from prosmin.training.watch.progress import Progress

VARIABLE = "PROSMIN_TRACKERS"
KNOWN = ("tensorboard", "mlflow")  # names for Accelerate, and of their packages
FOLDER = Path(".prosmin/trackers")


def asked() -> list[str]:
    """The trackers that PROSMIN_TRACKERS names, separated by commas.

    Raises:
        UserError: for an unknown tracker and for one whose package is not installed.
    """
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    for name in names:
        if name not in KNOWN:
            allowed = f"it must name {' or '.join(KNOWN)}{nearest(name, KNOWN)}"
            raise UserError(f"{VARIABLE} is {os.environ[VARIABLE]!r}; {allowed}")
        if find_spec(name) is None:
            raise UserError(f"{VARIABLE} names {name}, which is not installed: pip install {name}")
    if "mlflow" in names:
        os.environ.setdefault("MLFLOW_TRACKING_URI", (FOLDER / "mlflow").resolve().as_uri())
    return list(dict.fromkeys(names))


def options() -> dict[str, Any]:
    """The arguments of ``Accelerator`` for the trackers that are asked for."""
    names = asked()
    return {"log_with": names, "project_dir": str(FOLDER)} if names else {}


def start(accelerator: "Accelerator", run: str) -> "Callable[[Progress], None]":
    """Start the trackers of an accelerator; returns what sends them the numbers of an epoch.

    run: name of the run.
    """
    if not accelerator.log_with:
        return lambda progress: None
    accelerator.init_trackers(run)
    sent = {"loss": 0, "diagnostics": 0}

    def send(progress: "Progress") -> None:
        rows = {"loss": progress.history.loss, "diagnostics": progress.history.diagnostics}
        for kind, known in rows.items():
            for row in known[sent[kind] :]:
                numbers = {f"{kind}/{name}": row[name] for name in row if name != "step"}
                accelerator.log(numbers, step=int(row["step"]))
            sent[kind] = len(known)
        if math.isfinite(progress.seconds_left):
            speed = {"images_per_second": progress.images_per_second}
            accelerator.log(speed, step=progress.step)

    return send
