"""Which workers take the points of a sweep: the options of a command, and what a flow is given."""

import argparse

from pydantic import BaseModel, ConfigDict, Field

POOL = "prosmin"
QUEUE = "points"
REMOTE = "origin"
PATIENCE = 180.0
SHORTEST = 30.0  # seconds of patience: a point stops itself after half of them
# Of the environment of a worker: the folder where it was started, its name, its git remote.
CLONE, NAME, GIT = "PROSMIN_CLONE", "PROSMIN_WORKER", "PROSMIN_REMOTE"


class Workers(BaseModel):
    """Workers of Prefect that take points.

    pool: their work pool.
    queue: of the pool, such as the kind of their GPU.
    remote: the git remote through which the code and the experiments go.
    patience: seconds without a sign of a worker after which another takes its point.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pool: str
    queue: str = QUEUE
    remote: str = REMOTE
    patience: float = Field(default=PATIENCE, ge=SHORTEST)


def add_workers(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add the options of ``workers_of``. kind: what the workers take, such as points."""
    parser.add_argument(
        "--pool", help=f"send the {kind} to the workers of this work pool, on any machine"
    )
    parser.add_argument("--queue", default=QUEUE, help=f"of the pool (default: {QUEUE})")
    parser.add_argument(
        "--remote", default=REMOTE, help=f"of git, between the machines (default: {REMOTE})"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE,
        metavar="SECONDS",
        help=f"without a sign of a worker, until another takes over (default: {PATIENCE:.0f})",
    )


def workers_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Workers | None:
    """The workers that the options name; None without ``--pool``.

    Ends with the usage and a sentence where the patience is too short.
    """
    if not options.patience >= SHORTEST:
        parser.error(f"--patience is {options.patience:g}; it must be at least {SHORTEST:.0f}")
    if not options.pool:
        return None
    return Workers(
        pool=options.pool,
        queue=options.queue,
        remote=options.remote,
        patience=options.patience,
    )
