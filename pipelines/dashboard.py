"""``make dashboard``: a Prefect server on loopback, the deployments of prefect.yaml, and a worker that runs them here.

One process holds all of it; Ctrl-C, or its death, takes everything down, runs included. The address of the report is served
beside the dashboard, because a browser does not follow a link from a page to a file.
"""

import argparse
import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines import graph
from pipelines.artifacts import REPORT
from pipelines.execute import guarded
from pipelines.run import command
from pipelines.server import HOST, RUNNING, announce, dashboard, free_port, settle, started, stop
from prosmin.errors import UserError
from stages.params import load

PORT = 4200
POOL = "prosmin"


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:  # requests are no news on the terminal
        pass


@contextmanager
def report_served() -> Iterator[str]:
    """The address under which the folder of the report is to be seen."""
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(Files, directory=str(REPORT.parent.resolve()))
    with http.server.ThreadingHTTPServer((HOST, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://{HOST}:{server.server_port}"
        finally:
            server.shutdown()


def prefect(*words: str) -> None:
    """One call of Prefect's own command; its last words if it fails."""
    done = subprocess.run([sys.executable, "-m", "prefect", *words], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise UserError(f"prefect {' '.join(words[:2])} failed: {lines[-1].strip() if lines else done.returncode}")


@contextmanager
def worker(api: str, report: str) -> Iterator[subprocess.Popen[str]]:
    """What takes runs from the server and starts them in this folder."""
    extra = {"PREFECT_API_URL": api, "PROSMIN_REPORT_URL": report}
    process = guarded([sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--name", "here"], extra)
    threading.Thread(target=_repeat, args=(process,), daemon=True).start()
    try:
        yield process
    finally:
        stop(process)


def _repeat(process: subprocess.Popen[str]) -> None:
    with suppress(ValueError):  # the pipe is closed while it is read
        for line in process.stdout:
            print(line, end="", flush=True)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.dashboard", description="Start the dashboard; Ctrl-C ends it."
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"of the server (default: {PORT})")
    parser.add_argument(
        "--file", type=Path, default=Path("prefect.yaml"), help="what is deployed (default: prefect.yaml)"
    )
    found = parser.parse_args(given)
    if not 0 < found.port < 65536:
        parser.error(f"--port is {found.port}; it must be between 1 and 65535")
    return found


def main(given: argparse.Namespace) -> int:
    load()
    graph.read()
    if not given.file.is_file():
        raise UserError(f"{given.file} does not exist; it says what the dashboard offers, and when it runs")
    if url := dashboard():
        raise UserError(f"the dashboard of this folder is running already: {url.removesuffix('/api')}")
    free_port(given.port)
    settle()
    print("starting the Prefect server ...", flush=True)
    with started(given.port) as api, report_served() as report:
        os.environ["PREFECT_API_URL"] = api
        prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
        prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(given.file))
        announce(api)
        try:
            with worker(api, report) as process:
                print(
                    f"Dashboard: {api.removesuffix('/api')}\nReport:    {report}/{REPORT.name}\nCtrl-C ends both.",
                    flush=True,
                )
                code = process.wait()
        finally:
            RUNNING.unlink(missing_ok=True)
    raise UserError(f"the worker ended by itself with code {code}; its last lines stand above")


if __name__ == "__main__":
    command(lambda: main(arguments()))
