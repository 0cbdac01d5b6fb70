"""The Prefect server that a run reports to.

It is the server in PREFECT_API_URL, else the dashboard's, else one that is started for the run and
ends with it. All of Prefect's files lie in ``.prosmin/prefect`` of this checkout, so the dashboard
shows earlier runs from a terminal. A server that is started here is for its user alone
(``pipelines/flows/local_server.py``): on loopback, with a password that is made anew each time, so
a program that takes the port later learns nothing of use. Nothing is sent anywhere: the telemetry
of Prefect and of DVC is off.
"""

import errno
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.engine.execute import ended, guarded
from pipelines.flows.client import quick_client
from pipelines.flows.local_server import HOST, origins
from pipelines.graph.private import FOLDER, private
from prosmin.common.errors import UserError
from prosmin.common.files import write_json, write_text

# Seconds for a server to start. A new database takes 15 on a slow disk, 80 on a busy machine.
PATIENCE = 180.0
ANSWER = 10.0  # seconds for a running server to answer
RUNNING = FOLDER / "dashboard.json"
PASSWORD = FOLDER / "password"
LOCAL = ("127.0.0.1", "localhost", "::1")
REFUSED = "it refuses the password"
ENDS = "an address of Prefect ends with /api"


@dataclass(frozen=True)
class Server:
    """A server of this checkout. api: its address; password: the one that it asks for."""

    api: str
    password: str

    @property
    def site(self) -> str:
        """The address of its pages."""
        return self.api.removesuffix("/api")

    def variables(self) -> dict[str, str]:
        """The variables that Prefect's client reads."""
        return {"PREFECT_API_URL": self.api, "PREFECT_API_AUTH_STRING": self.password}


def settle() -> None:
    """Set Prefect's variables for this checkout; those that the user has set stay.

    Call it before anything imports ``prefect``.
    """
    home = private().resolve() / "prefect"
    for name, value in {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "PREFECT_CLI_PROMPT": "false",
        # With growing pauses, a minute in all. A server that restarts is back in ten seconds.
        "PREFECT_CLIENT_MAX_RETRIES": "5",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",  # DVC keeps the results
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR",  # the terminal has a view of its own
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }.items():
        os.environ.setdefault(name, value)
    # No proxy knows the addresses of this machine. Programs read either of the two spellings.
    direct = [os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    if "*" not in direct:
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(
            dict.fromkeys(filter(None, [*direct, *LOCAL]))
        )
    try:
        Path(os.environ["PREFECT_HOME"]).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {error.filename} cannot be made: {error.strerror}") from None


def ready(url: str, seconds: float = 1.0) -> bool:
    """Whether a server answers at this address."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds) as answer:
            return answer.status == 200
    except (OSError, ValueError):
        return False


def dashboard() -> Server | None:
    """The server of this checkout's dashboard, if it is running."""
    try:
        server = Server(json.loads(RUNNING.read_text())["api"], PASSWORD.read_text())
    except (OSError, ValueError, KeyError):
        return None
    return server if ready(server.api) else None


def free_port(wanted: int = 0, host: str = HOST) -> int:
    """The port ``wanted`` of an address of this machine; for 0 any free port.

    Raises:
        UserError: where the port is in use, or the address is not one of this machine.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise UserError(
                    f"--host is {host}; it must be an address or a name of this machine"
                ) from None
            raise UserError(
                f"port {wanted} is in use; "
                f"name another one, such as: make dashboard PORT={wanted + 1}"
            ) from None
        return probe.getsockname()[1]


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Add ``variables`` to the environment of this process while the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    _tell_prefect()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _tell_prefect()


def _tell_prefect() -> None:
    """Have Prefect read the environment again, if it has read it; else it keeps the old address."""
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


@contextmanager
def reached() -> Iterator[str]:
    """Set PREFECT_API_URL and the password while the block runs; yields the address."""
    given, running = os.environ.get("PREFECT_API_URL"), dashboard()
    if running and given in (None, "", running.api):
        with environment(running.variables()):
            yield running.api
    elif given:
        check(given)
        yield given
    else:
        with started(free_port(), ui=False) as own, environment(own.variables()):
            yield own.api


def check(url: str) -> None:
    """Check that a run can be reported to a server.

    url: the value of PREFECT_API_URL.

    Raises:
        UserError: where it cannot.
    """
    if why := fault():
        raise UserError(
            f"PREFECT_API_URL is {url}, and a run cannot be reported there: {why}; "
            "unset PREFECT_API_URL to do without that server"
        )


def fault() -> str:
    """Why the server in PREFECT_API_URL cannot be used, or an empty text.

    Prefect itself would wait longer for one that is away.
    """
    from httpx import HTTPError, HTTPStatusError, InvalidURL, TimeoutException
    from prefect.client.base import ServerType

    try:
        with quick_client(ANSWER) as client:
            if client.server_type != ServerType.CLOUD:
                client.api_version()
            return ""
    except HTTPStatusError as error:
        code = error.response.status_code
        why = f"it answers with {code} {error.response.reason_phrase} ({ENDS})"
        if code == 401:
            why = f"{REFUSED} (set PREFECT_API_AUTH_STRING)"
    except TimeoutException:
        why = f"it does not answer within {ANSWER:.0f} seconds"
    except (HTTPError, InvalidURL, OSError) as error:
        why = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    except ValueError:  # the answer is no JSON, or not Prefect's
        why = f"what answers there is not Prefect ({ENDS})"
    return why


@contextmanager
def started(port: int, ui: bool = True, host: str = HOST) -> Iterator[Server]:
    """Run a server on ``host`` until the block ends, or this process in any way."""
    password = (
        os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or f"prosmin:{secrets.token_urlsafe(32)}"
    )
    server = Server(f"http://{host}:{port}/api", password)
    extra = server.variables() | {
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins(host, port)),
        "PREFECT_SERVER_UI_API_URL": server.api,
        "PREFECT_SERVER_UI_ENABLED": str(ui),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "pipelines.flows.local_server", host, str(port)]
    process = guarded(command, extra)
    lines: deque[str] = deque(maxlen=50)
    reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    reader.start()
    try:
        end = time.monotonic() + PATIENCE
        while not ready(server.api):
            code = process.poll()
            if code is not None:
                reader.join(1.0)
                raise UserError(
                    f"the Prefect server did not start on {host}:{port}: {ending(code, lines)}"
                )
            if time.monotonic() > end:
                raise UserError(
                    f"the Prefect server did not start on {host}:{port}: "
                    f"it was not up after {PATIENCE:.0f} seconds"
                )
            time.sleep(0.1)
        yield server
    finally:
        stop(process)


def ending(code: int, lines: Sequence[str]) -> str:
    """Why a server has ended, from its output and the code of its guard."""
    said = [line.strip() for line in lines if line.strip()]
    error = next((line for line in reversed(said) if re.match(r"[\w.]*error: ", line, re.I)), None)
    if error:
        return error.removeprefix("error: ")
    killed = abs(code) - 128 if code > 128 else -code
    names = {number.value: number.name for number in signal.Signals}
    if killed in names:
        return f"it was ended by {names[killed]}"
    return said[-1] if said else f"it ended with code {code}"


def stop(process: subprocess.Popen[str]) -> None:
    """End a guarded process and wait for it."""
    process.terminate()
    process.stdin.close()
    ended(process)


@contextmanager
def announced(server: Server) -> Iterator[None]:
    """Let this user's runs find the dashboard and its password while the block runs."""
    try:
        write_text(PASSWORD, server.password, mode=0o600)
        write_json(RUNNING, {"api": server.api, "pid": os.getpid()})
        yield
    finally:
        for path in (RUNNING, PASSWORD):
            path.unlink(missing_ok=True)
