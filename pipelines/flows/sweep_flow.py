"""The sweep as a Prefect flow: one task per point, and a ranked table at the end."""

import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import ValidationError

from pipelines.flows.grid import Sweep, existing, prepare, table
from pipelines.flows.points import Point, Running, hopeless
from pipelines.flows.server import settle
from pipelines.flows.terminal import tell
from pipelines.machines import pool
from pipelines.machines.workers import Cluster, Workers
from prosmin.common.errors import UserError
from stages.params.yaml_file import sentences

settle()  # before the imports below: Prefect reads its settings when it is imported

from prefect import flow, get_run_logger, task  # noqa: E402
from prefect.artifacts import create_table_artifact  # noqa: E402
from prefect.states import Completed, Failed, State  # noqa: E402
from prefect.task_runners import ThreadPoolTaskRunner  # noqa: E402


@flow(
    name="sweep", flow_run_name="sweep {name}", task_runner=ThreadPoolTaskRunner(max_workers=1000)
)
def run_sweep(
    grid: dict[str, Any],
    rank: str,
    name: str = "sweep",
    lowest: bool | None = None,
    show: list[str] = [],  # noqa: B006 (Prefect shows the default in its form)
    stages: list[str] = [],  # noqa: B006
    slots: int = 2,
    echo: bool = False,
    workers: Workers | Cluster | None = None,
) -> State[Any]:
    """Run every point of a grid as a DVC experiment.

    Args:
        grid: Settings with their values, such as {"pretrain.epochs": [5, 10], "seed":
            "range(0, 3)"}. Every combination is a point.
        rank: The metric that ranks the points, such as metrics/linear.json:trained.accuracy.
        name: Name of the experiments, before their number.
        lowest: Whether the lowest value is best. Left out: as the metric is better.
        show: More metrics for the table.
        stages: Stages to run, with all that they need. Empty: all stages.
        slots: Points at the same time, each with its share of cores and GPUs.
        echo: Whether to write to the terminal too.
        workers: Workers on any machine that take the points, or a cluster. Empty: this machine.
    """
    log = get_run_logger()
    try:
        sweep = Sweep(grid=grid, rank=rank, lowest=lowest, show=show, stages=stages)
        snapshot = prepare(sweep)
        points = sweep.points()
        width = len(str(len(points) - 1))
        names = {f"{name}-{place:0{width}}": point for place, point in enumerate(points)}
        with pool.running(snapshot, slots, workers, name, sweep.stages, announce(echo)) as running:
            failed = run_points(
                {name: Point(point, sweep.stages) for name, point in names.items()},
                running,
                existing(),
                echo,
            )
    except (UserError, ValidationError) as error:
        lines = sentences(error, Sweep) if isinstance(error, ValidationError) else [str(error)]
        log.error("%s", "; ".join(lines))
        return Failed(message="; ".join(lines))
    ranked = table(sweep, names, failed)
    create_table_artifact(
        ranked,
        key="ranking",
        description=f"By {rank}, the {'lowest' if sweep.lowest_first else 'highest'} first.",
    )
    if echo:
        tell(aligned(ranked), sys.stdout)
    return ending(len(names), failed)


def announce(echo: bool) -> Callable[[str], None]:
    """Tells the page of the flow that calls, and with ``echo`` the terminal too."""
    log = get_run_logger()

    def say(line: str) -> None:
        log.info("%s", line)
        if echo:
            tell(line, sys.stderr)

    return say


def ending(count: int, failed: Mapping[str, str]) -> State[Any]:
    """The state of a sweep of so many points. failed: why points have no result, by name."""
    text = f"{count - len(failed)} of {count} points done"
    if stopped := [name for name, why in failed.items() if hopeless(why)]:
        text += f"; stopped early: {', '.join(stopped)}"
    if broken := [name for name in failed if name not in stopped]:
        return Failed(message=f"{text}; failed: {', '.join(broken)}")
    return Completed(message=text)


def run_points(
    points: Mapping[str, Point], running: Running, done: Collection[str], echo: bool
) -> dict[str, str]:
    """Run points as tasks of the flow that calls, and wait for all of them.

    Args:
        points: By the name of their experiment.
        running: Starts them; it is stopped where the flow is.
        done: Names of experiments that exist. They are not run again.
        echo: Whether to write to the terminal too.

    Returns:
        Why a point failed, by name.
    """
    failed: dict[str, str] = {}

    def start(name: str, point: Point) -> Any:
        @task(
            name="point",
            task_run_name=f"{name}: {point.shown}",
            persist_result=False,
        )
        def work() -> State[Any]:
            if name in done:
                return Completed(name="Cached", message="the experiment exists")
            why = running.run(name, point, get_run_logger().info)
            if echo:
                tell(f"{name}: {why or 'done'}", sys.stdout)
            if why:
                failed[name] = why
            if hopeless(why):
                return Completed(name="Stopped early", message=why)
            return Failed(message=why) if why else Completed()

        return work.submit()

    futures = [start(name, point) for name, point in points.items()]
    try:
        for future in futures:
            future.wait()
    except BaseException:
        running.stop()
        raise
    finally:
        for future in futures:
            future.wait()
    return failed


def aligned(rows: list[dict[str, Any]]) -> str:
    """A table as text, its columns padded."""
    lines = [list(rows[0]), *(list(map(str, row.values())) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
