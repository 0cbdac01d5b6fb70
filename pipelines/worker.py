"""``make worker``: run points of sweeps that another machine has started.

``python -m pipelines.worker http://10.0.0.5:4200/api``, in a clone of the project. The password of
the server is taken from PREFECT_API_AUTH_STRING. The code and the experiments go through the git
remote of this clone, data and results through its DVC remote. Ctrl-C, or the death of this process,
ends all of it, points included; another worker then takes them up. See docs/machines.md.

Each slot is a worker of Prefect with its share of the cores and GPUs, which it gives to one point
after another.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from pipelines.dashboard import repeated
from pipelines.engine import variables
from pipelines.flows.points import Slots, add_slots, check_slots
from pipelines.flows.server import REFUSED, environment, fault, settle
from pipelines.graph import dag
from pipelines.graph.workspace import tidy
from pipelines.machines import exchange
from pipelines.machines.pool import ensure
from pipelines.machines.workers import CLONE, GIT, NAME, POOL, QUEUE, REMOTE, Workers
from pipelines.run import command
from prosmin.common.errors import UserError

# Runs are due at once. A worker whose clock is behind must not take them for later.
AHEAD = 24 * 3600
LOOK = 1.0  # seconds between two looks at the slots
# Seconds between two questions for a point. Prefect's own ten would be half of what it costs to
# send a stage.
ASK = "2"
PAUSE, LONGEST = 1.0, 60.0  # seconds until a worker of Prefect that has ended is started again


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.worker",
        description="Run points of sweeps that another machine has started; Ctrl-C ends it.",
    )
    parser.add_argument("server", help="its address, such as http://10.0.0.5:4200/api")
    parser.add_argument("--pool", default=POOL, help=f"the work pool (default: {POOL})")
    parser.add_argument("--queue", default=QUEUE, help=f"of the pool (default: {QUEUE})")
    parser.add_argument("--remote", default=REMOTE, help=f"of git (default: {REMOTE})")
    add_slots(parser, "points", 1)
    parser.add_argument("--name", default=socket.gethostname(), help="on the pages of the server")
    options = parser.parse_args(given)
    check_slots(parser, options.slots)
    return options


class Slot:
    """A worker of Prefect that is started again whenever it ends.

    name: on the pages of the server. share: variables that keep it to its part of the machine.
    """

    def __init__(self, options: argparse.Namespace, name: str, share: Mapping[str, str]):
        self.name, self.share = name, share
        self.command = [sys.executable, "-m", "prefect", "worker", "start", "--limit", "1"]
        self.command += ["--pool", options.pool, "--work-queue", options.queue, "--name", name]
        self.command += ["--prefetch-seconds", str(AHEAD)]
        self._pause, self._due = PAUSE, 0.0
        self._running = ExitStack()
        self._process: subprocess.Popen[str] | None = None

    def look(self) -> None:
        """Start it where it does not run and a start is due.

        Raises:
            UserError: where the server refuses the password.
        """
        if self._process:
            if (code := self._process.poll()) is None:
                return
            self.stop()
            print(f"{self.name} ended with code {code}; it is started again", flush=True)
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST)
        why = fault()
        if REFUSED in why:
            raise UserError(f"the server cannot be used: {why}")
        if why:
            print(f"{self.name}: the server cannot be used: {why}", flush=True)
            return
        self._process = self._running.enter_context(repeated(self.command, self.share))

    def ask_to_end(self) -> None:
        """Interrupt it and its point."""
        if self._process:
            self._process.terminate()

    def stop(self) -> None:
        """End it and wait for the end."""
        self._running.close()
        self._process = None


def main(options: argparse.Namespace) -> int:
    dag.read()
    tidy()
    settle()
    exchange.settle_git()
    own = {
        "PREFECT_API_URL": options.server,
        CLONE: str(Path.cwd()),
        NAME: options.name,
        GIT: options.remote,
        "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", ASK),
    }
    with environment(own):
        variables.check()
        if why := fault():
            raise UserError(f"the server {options.server} cannot be used: {why}")
        exchange.check(options.remote)
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            ensure(client, Workers(pool=options.pool, queue=options.queue))
        serve(options)
    return 0


def serve(options: argparse.Namespace) -> NoReturn:
    """Run the slots until this process is stopped."""
    parts = Slots(options.slots)
    with ExitStack() as taken:
        shares = [taken.enter_context(parts.taken()) for _ in range(options.slots)]
        names = [options.name]
        if options.slots > 1:
            names = [f"{options.name}-{place}" for place in range(options.slots)]
        slots = [Slot(options, *pair) for pair in zip(names, shares, strict=True)]
        print(
            f"{options.name} serves the queue {options.queue} of the work pool {options.pool} "
            f"at {options.server}; Ctrl-C ends it",
            flush=True,
        )
        try:
            while True:
                for slot in slots:
                    slot.look()
                time.sleep(LOOK)
        finally:
            for slot in slots:
                slot.ask_to_end()
            for slot in slots:
                slot.stop()


if __name__ == "__main__":
    command(lambda: main(arguments()))
