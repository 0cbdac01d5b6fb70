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


class Cluster(BaseModel):
    """A cluster whose nodes see this folder, and whose jobs run points (``slurm.py``).

    options: of a job, such as partition, time in minutes, gpus_per_node, cpus_per_task, mem.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    options: dict[str, int | str]


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


def add_others(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add the options of ``others_of``. kind: what runs there, such as points."""
    add_workers(parser, kind)
    parser.add_argument(
        "--slurm",
        nargs="*",
        metavar="KEY=VALUE",
        help=f"run the {kind} as array jobs of Slurm, such as time=240 gpus_per_node=1",
    )


def others_of(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> Workers | Cluster | None:
    """The workers or the cluster that the options name; None without ``--pool`` and ``--slurm``.

    Ends with the usage and a sentence for both together, and for an option that is no pair.
    """
    if options.slurm is None:
        return workers_of(parser, options)
    if options.pool:
        parser.error("--slurm and --pool both say where to run; name one of them")
    pairs = [given.partition("=") for given in options.slurm]
    for key, equals, value in pairs:
        if not (key and equals and value):
            parser.error(f"--slurm has {key}{equals}{value}; it must be KEY=VALUE, as time=240")
    return Cluster(
        options={key: int(value) if value.isdecimal() else value for key, _, value in pairs}
    )
