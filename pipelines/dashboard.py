"""``make dashboard``: Prefect's pages on this machine, and a worker that runs deployments here.

It starts a Prefect server, deploys prefect.yaml and starts the worker. Ctrl-C, or the death of this
process, ends all of it, runs included. The server listens on loopback; ``--host`` names another
address, for the workers of other machines (``pipelines/worker.py``). The report is served beside
the dashboard, on loopback, because a browser does not follow a link from a page to a file.

Only the user who started it gets in. The browser reads the password from a file that nobody else
can read: everybody can read its command line.
"""

import argparse
import functools
import hmac
import http.server
import os
import secrets
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from pipelines.engine import variables
from pipelines.engine.execute import guarded
from pipelines.flows.local_server import HOST
from pipelines.flows.page import REPORT
from pipelines.flows.server import (
    PASSWORD,
    Server,
    announced,
    dashboard,
    environment,
    free_port,
    settle,
    started,
    stop,
)
from pipelines.graph import dag
from pipelines.graph.private import FOLDER
from pipelines.graph.workspace import tidy
from pipelines.machines.pool import TEMPLATE
from pipelines.machines.workers import POOL
from pipelines.run import command
from prosmin.common.errors import UserError
from prosmin.common.files import write_text
from stages.params.load import load

PORT = 4200
EVERY = ("", "0.0.0.0", "::", "*")
OWN_QUEUE = "default"  # of the pool; workers of other machines serve other queues
SIGN_IN = FOLDER / "sign-in.html"
GREETING = """Dashboard: {server.site}, for you alone: open {page},
           or sign in there with the content of {password}
Report:    {report}
For `prefect` on the command line, in this folder:
  export PREFECT_API_URL={server.api} PREFECT_API_AUTH_STRING="$(cat {password})"
Ctrl-C ends it all."""
OUTSIDE = """Workers on other machines, in a clone of the project, with that password:
  export PREFECT_API_AUTH_STRING=…; make worker SERVER={server.api}
No TLS stands before {host}: whoever can listen to that network can read the password."""
FORWARD = (
    '<!doctype html><meta charset="utf-8">'
    '<meta http-equiv="refresh" content="0; url={site}/sign-in#{password}">'
)


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a folder at an address that nobody can guess."""

    def __init__(self, *arguments: object, secret: str, **settings: object):
        self.secret = secret
        super().__init__(*arguments, **settings)

    def send_head(self) -> object:
        first, _, rest = self.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(first.encode(), self.secret.encode()):
            self.send_error(http.HTTPStatus.NOT_FOUND)
            return None
        self.path = f"/{rest}"
        return super().send_head()

    def log_message(self, *arguments: object) -> None:  # keeps requests off the terminal
        pass


@contextmanager
def report_served() -> Iterator[str]:
    """Serve the folder of the report while the block runs; yields its address."""
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    secret = secrets.token_urlsafe(16)
    handler = functools.partial(Files, secret=secret, directory=str(REPORT.parent.resolve()))
    with http.server.ThreadingHTTPServer((HOST, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://{HOST}:{server.server_port}/{secret}"
        finally:
            server.shutdown()


def prefect(*words: str) -> None:
    """Call Prefect's command.

    Raises:
        UserError: with its last line, where it fails.
    """
    done = subprocess.run([sys.executable, "-m", "prefect", *words], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        why = lines[-1].strip() if lines else done.returncode
        raise UserError(f"prefect {' '.join(words[:2])} failed: {why}")


def forward(server: Server) -> str:
    """A page that opens the dashboard and hands it the password."""
    return FORWARD.format(site=server.site, password=quote(server.password))


@contextmanager
def sign_in(server: Server) -> Iterator[None]:
    """Keep a file that signs in the browser that opens it, while the block runs."""
    try:
        write_text(SIGN_IN, forward(server), mode=0o600)
        yield
    finally:
        SIGN_IN.unlink(missing_ok=True)


def show(page: str) -> None:
    """Open ``page`` in the browser, where this machine has a screen and this process a terminal."""
    screen = (
        sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if screen and sys.stdout.isatty():
        # Some browsers return only when they are closed.
        threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()


@contextmanager
def worker(report: str) -> Iterator[subprocess.Popen[str]]:
    """Start the worker that runs deployments in this folder; it ends with the block."""
    extra = {"PROSMIN_REPORT_URL": report}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
    with repeated([*command, "--work-queue", OWN_QUEUE, "--name", "here"], extra) as process:
        yield process


@contextmanager
def repeated(command: list[str], extra: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command below a guard while the block runs, and repeat its lines on the terminal.

    extra: variables to add to its environment.
    """
    process = guarded(command, extra)
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
        "--host",
        default=HOST,
        help="the address of this machine to listen on, for workers of other machines "
        f"(default: {HOST}, for this machine alone)",
    )
    parser.add_argument(
        "--file",
        type=Path,
        default=Path("prefect.yaml"),
        help="what is deployed (default: prefect.yaml)",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="do not open the dashboard in the browser"
    )
    options = parser.parse_args(given)
    if not 0 < options.port < 65536:
        parser.error(f"--port is {options.port}; it must be between 1 and 65535")
    if options.host in EVERY:
        parser.error(
            f"--host is {options.host!r}, every address of this machine; "
            "name the one by which the workers reach it, such as 10.0.0.5"
        )
    return options


def main(given: argparse.Namespace) -> int:
    load()
    tidy()
    dag.read()
    if not given.file.is_file():
        raise UserError(
            f"{given.file} does not exist; it says what the dashboard offers, and when it runs"
        )
    settle()
    variables.check()
    if running := dashboard():
        raise UserError(f"the dashboard of this folder is running already: {running.site}")
    free_port(given.port, given.host)
    print("starting the Prefect server ...", flush=True)
    with (
        started(given.port, host=given.host) as server,
        report_served() as report,
        environment(server.variables()),
    ):
        prefect(
            "work-pool",
            "create",
            POOL,
            "--type",
            "process",
            "--overwrite",
            "--base-job-template",
            str(TEMPLATE),
        )
        prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(given.file))
        with announced(server), sign_in(server), worker(report) as process:
            page, address = SIGN_IN.resolve().as_uri(), f"{report}/{REPORT.name}"
            print(
                GREETING.format(server=server, page=page, report=address, password=PASSWORD),
                flush=True,
            )
            if given.host != HOST:
                print(OUTSIDE.format(server=server, host=given.host), flush=True)
            if not given.no_browser:
                show(page)
            code = process.wait()
    raise UserError(f"the worker ended by itself with code {code}; its last lines stand above")


if __name__ == "__main__":
    command(lambda: main(arguments()))
