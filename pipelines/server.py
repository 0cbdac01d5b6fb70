"""The Prefect server that a run reports to: the one named, the dashboard's, or one of the run's own that ends with it.

Everything Prefect keeps lies in ``.prosmin/prefect`` of this checkout, so runs from a terminal are on the dashboard later. The
server listens on loopback only, and nothing is sent anywhere: the telemetry of Prefect and of DVC is off.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.execute import guarded
from prosmin.errors import UserError
from prosmin.files import write_json

HOST = "127.0.0.1"
PATIENCE = 90.0  # seconds for a server to come up; a new database on a slow disk takes 15
FOLDER = Path(".prosmin")
RUNNING = FOLDER / "dashboard.json"


def settle() -> None:
    """Set Prefect up for this checkout; call it before anything imports ``prefect``. What the user has set stays."""
    home = FOLDER.resolve() / "prefect"
    for name, value in {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLIENT_MAX_RETRIES": "5",  # with growing pauses, a minute in all: a restarting server is back in ten seconds
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",  # DVC keeps the results
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR",  # the terminal has a view of its own
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }.items():
        os.environ.setdefault(name, value)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)


def ready(url: str, seconds: float = 1.0) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds) as answer:
            return answer.status == 200
    except (OSError, ValueError):
        return False


def dashboard() -> str | None:
    """The API address of this checkout's dashboard, if one is running."""
    try:
        url = json.loads(RUNNING.read_text())["api"]
    except (OSError, ValueError, KeyError):
        return None
    return url if ready(url) else None


def free_port(wanted: int = 0) -> int:
    """``wanted`` if it is free (0: any). Raises ``UserError`` when it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            raise UserError(
                f"port {wanted} is in use; name another one, such as: make dashboard PORT={wanted + 1}"
            ) from None
        return probe.getsockname()[1]


@contextmanager
def reached() -> Iterator[str]:
    """The API address to report to, in PREFECT_API_URL as long as the block runs."""
    url = os.environ.get("PREFECT_API_URL") or dashboard()
    if url:
        os.environ["PREFECT_API_URL"] = url
        yield url
        return
    with started(free_port(), ui=False) as url:
        os.environ["PREFECT_API_URL"] = url
        try:
            yield url
        finally:
            os.environ.pop("PREFECT_API_URL")


@contextmanager
def started(port: int, ui: bool = True) -> Iterator[str]:
    """A server on loopback that ends with the block, or with this process however it ends."""
    api = f"http://{HOST}:{port}/api"
    extra = {
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_API_URL": api,
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
    }
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        HOST,
        "--port",
        str(port),
        "--analytics-off",
    ]
    process = guarded([*command, "--ui" if ui else "--no-ui"], extra)
    lines: deque[str] = deque(maxlen=50)
    threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()
    try:
        end = time.monotonic() + PATIENCE
        while not ready(api):
            if process.poll() is not None or time.monotonic() > end:
                last = next((line.strip() for line in reversed(lines) if "rror" in line), "no message")
                raise UserError(f"the Prefect server did not start on {HOST}:{port}: {last}")
            time.sleep(0.1)
        yield api
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """End a guarded process and wait for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.stdin.close()
    process.wait()


def announce(api: str) -> None:
    """Let runs started elsewhere in this checkout find the dashboard."""
    write_json(RUNNING, {"api": api, "pid": os.getpid()})
