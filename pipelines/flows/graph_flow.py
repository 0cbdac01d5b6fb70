"""The Prefect flow whose tasks are the stages of ``dvc.yaml``, run at the same time.

It leaves the folder as ``dvc repro`` would: the same files, and a ``dvc.lock`` equal to the byte. A
stage gets the same number of threads from both (``stages.common.threads``), so it computes the same
numbers. The flow adds the page of the run: stages side by side, their logs, their outcomes, metrics
against the last commit, the result table, plots, the report.
"""

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from httpx import HTTPError

from pipelines.engine import machine, measured
from pipelines.engine.dvc_command import different_version
from pipelines.engine.execute import Executor, Result, against
from pipelines.engine.schedule import Schedule, expected
from pipelines.flows import page
from pipelines.flows.progress import Progress
from pipelines.flows.server import settle
from pipelines.graph import dag, lockfile, reads
from pipelines.graph.experiment import experiment
from pipelines.graph.workspace import alone
from pipelines.machines import elsewhere
from pipelines.machines.workers import Workers
from pipelines.plan import of
from prosmin.common.errors import UserError

settle()  # before the imports below: Prefect reads its settings when it is imported

from prefect import flow, get_run_logger, task  # noqa: E402
from prefect.futures import PrefectFuture  # noqa: E402
from prefect.runtime import flow_run  # noqa: E402
from prefect.states import Completed, Failed, State  # noqa: E402
from prefect.task_runners import ThreadPoolTaskRunner  # noqa: E402


class Scope(NamedTuple):
    """Which stages run: ``stages`` and all that they need, or as ``dag.look`` says."""

    stages: Sequence[str] = ()
    downstream: bool = False
    single: bool = False


class View(Protocol):
    """An observer of a run in its process. Its methods are called from several threads."""

    def began(self, stages: dict[str, dag.Stage], plan: list[str]) -> None: ...
    def started(self, stage: str) -> None: ...
    def line(self, stage: str, text: str) -> None: ...
    def ended(self, result: Result) -> None: ...
    def saved(self, name: str) -> None: ...


VIEW: ContextVar[View | None] = ContextVar("view", default=None)
# The look at the graph that the starter of a run has just taken, so that it is taken once.
LOOK: ContextVar[dag.Look | None] = ContextVar("look", default=None)


def _run_name() -> str:
    given = flow_run.parameters
    what = " ".join(given.get("stages") or ["all stages"])
    return " ".join([given.get("name") or what, *(given.get("changes") or [])])


# A thread waits for each stage that runs. The leases decide how many run.
@flow(
    name="graph",
    flow_run_name=_run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=1000),
    validate_parameters=True,
)
def run_graph(
    stages: Sequence[str] = (),
    changes: Sequence[str] = (),
    name: str | None = None,
    force: bool = False,
    workers: int | None = None,
    snapshot: str | None = None,
    downstream: bool = False,
    single: bool = False,
    pool: Workers | None = None,
) -> State[Any]:
    """Run the graph.

    Args:
        stages: Stages to run, with all that they need. Empty: all stages.
        changes: Settings for this run alone, such as pretrain.epochs=5. The run becomes a DVC
            experiment in a folder of its own.
        name: Name of the experiment. Empty: a name that DVC makes up.
        force: Run stages also where nothing has changed.
        workers: Stages at the same time. Empty: as many as there are cores.
        snapshot: The state of the code that a sweep was started from. Empty: the folder as it is.
        downstream: Run the stages and those that depend on them, not those that they need.
        single: Run the stages alone.
        pool: Workers on any machine for stages that find no room here. Empty: they wait for room.
    """
    log = get_run_logger()
    try:
        point = experiment(changes, name, snapshot) if changes or name else nullcontext()
        with point as saved, alone() as lock:
            scope = Scope(stages, downstream, single)
            results = _run_here(scope, force, workers, lock, pool)
            ending = _ending(results)
            if saved and ending.is_completed():
                ran = {
                    stage: result.seconds
                    for stage, result in results.items()
                    if result.outcome == "ran"
                }
                kept = saved.save(next(iter(results)), ran)
                log.info("experiment %s: see it with `dvc exp show`", kept)
                log.info("take it over with `dvc exp apply %s`", kept)
                if view := VIEW.get():
                    view.saved(kept)
        return ending
    except UserError as error:
        log.error("%s", error)
        return Failed(message=str(error))


def _run_here(
    scope: Scope, force: bool, workers: int | None, lock: int | None, pool: Workers | None
) -> dict[str, Result]:
    """Run stages of the current folder and put the results on the page of this run."""
    chosen, unchanged = LOOK.get() or dag.look(*scope)
    if force:
        unchanged = set()
    noted = lockfile.noted()
    before = lockfile.snapshot(chosen)
    if said := different_version():
        get_run_logger().warning("%s", said)
    view, futures = VIEW.get(), {}
    progress = Progress(len(chosen))
    took, count, peaks = measured.SECONDS.load(), workers or machine.cores(), measured.MEMORY.load()
    leases = machine.Machine(count, peaks=peaks)
    plan = of(chosen, unchanged, asked=scope.stages, forced=force)
    idle = unchanged | set(plan.restored)
    seconds, memory = expected(chosen, idle, replace(leases), took)
    plan = plan._replace(seconds=seconds, memory=memory)
    for line in plan.head():
        get_run_logger().info("%s", line)
    large = list(leases.warnings(stage for name, stage in chosen.items() if name not in idle))
    for line in large:
        get_run_logger().warning("%s", line)
    with suppress(HTTPError):  # the server has gone for good, which changes no result
        page.announce(plan)
    if view:
        view.began(chosen, [*plan.head(), *(f"warning: {line}" for line in large)])

    def submit(stage: dag.Stage, lease: machine.Lease | None, known: Result | None) -> None:
        upstream: list[PrefectFuture[Any]] = [futures[need] for need in stage.needs]
        if known and not known.done:  # Prefect marks it NotReady without calling it
            finish(known, None)

        @task(name=stage.name, task_run_name=stage.name, persist_result=False)
        def work() -> State[Any]:
            result = known or Result(stage.name, "failed", 0.0, "the run itself broke off")
            try:
                if known is None:
                    if view:
                        view.started(stage.name)
                    lines = show(stage.name, get_run_logger())
                    result = against(stage, (away or here).run(stage, lease, lines))
            finally:
                finish(result, lease)
            return _state(result)

        futures[stage.name] = work.submit(wait_for=upstream)

    def show(name: str, log: Any) -> Any:
        def line(text: str) -> None:
            if not progress.line(name, text) and text.strip():
                log.info("%s", text)
            if view:
                view.line(name, text)

        return line

    def finish(result: Result, lease: machine.Lease | None) -> None:
        if view:
            view.ended(result)
        schedule.finish(result, lease)
        progress.ended()

    with (
        Executor(force, lock) as here,
        elsewhere.opened(pool, leases, here, took, get_run_logger().warning) as away,
    ):
        schedule = Schedule(chosen, unchanged, away or leases, submit, took)
        try:
            results = schedule.run()
        finally:
            (away or here).stop()
            for future in futures.values():
                future.wait()
            wrong = reads.wrong()
            if len(unchanged) < len(chosen) or noted:
                with dag.locked():
                    for name in wrong:
                        reads.withdraw(name)
                    lockfile.restore_order(before, chosen)
            progress.close()
    for name, what in wrong.items():
        results[name] = replace(results[name], outcome="failed", reason=what)
    if all(result.done for result in results.values()):
        lockfile.forget()
    ran = {name: result.seconds for name, result in results.items() if result.outcome == "ran"}
    measured.SECONDS.save(took | ran)
    measured.MEMORY.save(measured.MEMORY.load())  # with the notes that stages have left
    with suppress(HTTPError):  # the server has gone for good, which changes no result
        page.publish(results)
    return results


def _state(result: Result) -> State[Any]:
    """The state of a task, named after what became of the stage."""
    if result.done:
        names = {"ran": "Completed", "cached": "Cached", "skipped": "Skipped"}
        return Completed(name=names[result.outcome], message=f"{result.outcome} in {result.took}")
    return Failed(message=result.reason or result.outcome)


def _ending(results: dict[str, Result]) -> State[Any]:
    """The state of the run: a count per outcome, or why stages failed and which did not run."""

    def named(outcome: str) -> list[str]:
        return [name for name, result in results.items() if result.outcome == outcome]

    failed = {
        name: result.reason
        for name, result in results.items()
        if not result.done and result.outcome != "blocked"
    }
    if not failed:
        counts = {outcome: len(named(outcome)) for outcome in ("ran", "cached", "skipped")}
        return Completed(message=", ".join(f"{n} {outcome}" for outcome, n in counts.items() if n))
    lines = [f"{name} failed: {why}" for name, why in failed.items()]
    blocked = named("blocked")
    lines += [f"not run: {', '.join(blocked)}"] if blocked else []
    return Failed(message="; ".join(lines))
