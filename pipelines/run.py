"""``make flow``: run the graph, stages at the same time, with a live view.

``python -m pipelines.run --help`` lists the options. It exits with 0 when all is done, 1 when a
stage failed, 2 for bad input, 130 or 143 when stopped.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from pipelines.engine import variables
from pipelines.engine.join import join
from pipelines.flows.server import dashboard, reached, settle
from pipelines.flows.summary import show
from pipelines.graph import dag
from pipelines.graph.experiment import check
from pipelines.graph.workspace import alone, end_with_make, heard, tidy
from pipelines.machines.workers import Workers, add_workers, workers_of
from prosmin.common.errors import UserError, cause, say
from stages.common.command import OUTSIDE, with_command
from stages.common.stopping import raise_interrupts
from stages.params.load import Params, load

if TYPE_CHECKING:
    from prefect.states import State

    from pipelines.flows.terminal import Terminal

STOPPING = 30.0  # seconds for a run that was told to stop to end in order
FLUSH = 5.0  # seconds for what the server has not yet been told


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.run",
        description="Run the graph of dvc.yaml, stages at the same time.",
    )
    parser.add_argument("stages", nargs="*", help="run these and what they need (default: all)")
    parser.add_argument(
        "--force", action="store_true", help="run stages also where nothing has changed"
    )
    add_settings(parser, "as a DVC experiment with these settings; the folder stays as it is")
    parser.add_argument(
        "--downstream",
        action="store_true",
        help="run the stages and what depends on them, not what they need",
    )
    parser.add_argument(
        "--single-item", action="store_true", help="run the stages alone, not what they need"
    )
    parser.add_argument("--name", help="of the experiment")
    parser.add_argument(
        "--workers", type=int, help="stages at the same time (default: the number of cores)"
    )
    add_workers(parser, "stages that find no room here")
    parser.add_argument("--snapshot", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.pool = workers_of(parser, options)
    if options.pool and (options.changes or options.name):
        parser.error(
            "--pool is for the stages of this folder, and --set and --name make an experiment; "
            "make sweep sends experiments to workers"
        )
    if options.workers is not None and options.workers < 1:
        parser.error(f"--workers is {options.workers}; it must be at least 1")
    return options


def add_settings(parser: argparse.ArgumentParser, says: str) -> None:
    """Add ``--set``, the settings of a run. says: its help."""
    parser.add_argument(
        "--set",
        dest="changes",
        metavar="KEY=VALUE",
        action="extend",
        nargs="+",
        default=[],
        help=says,
    )


def main(given: argparse.Namespace) -> int:
    params = load()
    if (joined := join()) is not None:
        return joined
    check(given.changes, given.name)
    if given.pool:
        check_server()
    if given.changes or given.name:
        tidy()
        # Faults are reported before the server starts.
        dag.read(given.stages, given.downstream, given.single_item)
        look = None
    else:
        with alone():  # fails at once where another run is at work
            look = dag.look(given.stages, given.downstream, given.single_item)
    settle_quietly()
    from pipelines.flows.terminal import Terminal

    with reached(), Terminal() as view:
        from httpx import HTTPError

        from pipelines.flows.graph_flow import LOOK, VIEW, run_graph

        VIEW.set(view)
        LOOK.set(look)
        try:
            state = run_graph(
                stages=given.stages,
                changes=given.changes,
                name=given.name,
                force=given.force,
                workers=given.workers,
                snapshot=given.snapshot,
                downstream=given.downstream,
                single=given.single_item,
                pool=given.pool,
                return_state=True,
            )
        except HTTPError:
            return without_server(view)
        finally:
            flush()
    return report(state, view, params)


def settle_quietly() -> None:
    """Settle Prefect's variables for a command that tells by itself all there is."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    settle()
    variables.check()


def points_run(start: "Callable[[], State[Any]]", workers: object = None) -> int:
    """Run a flow of points on the server; return the exit code.

    start: imports and calls it. workers: those of other machines that take the points.
    """
    if isinstance(workers, Workers):
        check_server()
    settle_quietly()
    with reached():
        try:
            state = start()
        finally:
            flush()
    print(state.message)
    return 0 if state.is_completed() else 1


def check_server() -> None:
    """Raise ``UserError`` where there is no server that workers could reach."""
    if not (os.environ.get("PREFECT_API_URL") or dashboard()):
        raise UserError(
            "--pool needs a server that the workers reach: start `make dashboard` with "
            'ARGS="--host ADDRESS" in another terminal, or set PREFECT_API_URL (docs/machines.md)'
        )


def report(state: "State[Any]", view: "Terminal", params: Params) -> int:
    """Say on the screen how the run ended; return the exit code."""
    if not state.is_completed():
        print("\n".join(view.failures()), file=sys.stderr)
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    print(state.message)
    if view.experiment:
        print(
            f"experiment {view.experiment}: compare it with `dvc exp show`, "
            f"take it over with `dvc exp apply {view.experiment}`"
        )
        return 0
    return show(params)


def without_server(view: "Terminal") -> int:
    """Report a run whose server has gone for good; returns 0 where all stages are done, else 1."""
    done = [result for result in view.results.values() if result.done]
    print(
        f"error: the Prefect server at {os.environ['PREFECT_API_URL']} has gone, "
        "so the page of this run is not complete; "
        f"{len(done)} of {len(view.results)} stages are done, as dvc.lock says",
        file=sys.stderr,
    )
    return 0 if len(done) == len(view.results) else 1


def flush() -> None:
    """Send the server the logs and events that wait."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=FLUSH)
    EventsWorker.drain_all(timeout=FLUSH)


def leave(code: int) -> NoReturn:
    """End at once: at a normal exit Prefect waits for minutes for a server that has gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # its reader has gone
            stream.flush()
    os._exit(code)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """End by an exception, and at once after a while where some code has swallowed it.

    Imports and finalisers may swallow it. The guards then end all that was started.
    """
    late = threading.Timer(STOPPING, leave, [128 + number])
    late.daemon = True
    late.start()
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def command(body: Callable[[], int]) -> NoReturn:
    """Run ``body`` and exit with its code.

    Bad input and a fault of the system are one sentence, and a stop leaves no traceback. Every
    other error has its traceback and ends by ``leave`` too.
    """
    raise_interrupts()
    for number in heard():
        # Ctrl-C is ignored in the background of a script.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    end_with_make()
    try:
        leave(body())
    except BaseException as error:
        code = code_of(error)
        with contextlib.suppress(OSError):  # the reader of the output has gone
            explain(error, code)
        leave(code)


def code_of(error: BaseException) -> int:
    """The exit code of a command that ends by ``error``."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, BrokenPipeError):  # the reader of the output has gone (``| head``)
        return 128 + signal.SIGPIPE
    outside = isinstance(error, OSError) and error.errno in OUTSIDE
    return 2 if outside or isinstance(error, UserError) else 1


def explain(error: BaseException, code: int) -> None:
    """Say on standard error why the command ends."""
    if isinstance(error, UserError):
        say(with_command(error))
    elif isinstance(error, KeyboardInterrupt):
        print("interrupted; stages that were done are kept", file=sys.stderr)
    elif isinstance(error, SystemExit):
        if code in (128 + signal.SIGTERM, 128 + signal.SIGHUP):
            print("stopped; stages that were done are kept", file=sys.stderr)
    elif isinstance(error, OSError) and error.errno in OUTSIDE:
        say(f"the run cannot go on: {cause(error)}; stages that were done are kept")
    elif not isinstance(error, BrokenPipeError):
        traceback.print_exception(error)


if __name__ == "__main__":
    command(lambda: main(arguments()))
