"""The hosts of a training, seen from its processes: are they alike, and are they all there?

Each host puts what the training reads into the store of the launcher: keys of ``params.yaml``,
checksums of code and of manifests, versions of packages. Where a host differs from the first, all
stop with the same sentence before anything is trained.

Then a thread of each host writes a sign of life every second, and another watches those of the
others. Gloo tells at once that a connection was closed, but not by whom first, and it waits half an
hour for a host whose network is away. So the silence decides which host has gone.

A training on one host does none of this.
"""

import json
import logging
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Any

from prosmin.common.errors import UserError, reason, say
from stages.common import declared, inputs, workers
from stages.common.declared import PARAMS

if TYPE_CHECKING:
    from torch.distributed import Store

log = logging.getLogger(__name__)

BEAT = 1.0  # seconds between two signs of life
SILENCE = 20.0  # seconds without one, after which a host has gone
CLOSED = 5.0  # the same, once a connection was closed
MEETING = 300.0  # seconds for the processes of the other hosts to begin
PACKAGES = ("torch", "timm", "accelerate", "numpy")
DONE, FAULT = "done", "!"  # in the place of a sign of life; a sentence follows the fault

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where this process runs, by the variables of the launcher.

    host, hosts: number of this host, and how many there are.
    first: whether it is the first process of its host.
    """

    host: int
    hosts: int
    first: bool

    @classmethod
    def read(cls) -> "Place":
        """Without the variables of torchrun's agents: one host."""
        host, hosts = os.environ.get("GROUP_RANK", "0"), os.environ.get("GROUP_WORLD_SIZE", "1")
        return cls(int(host), int(hosts), os.environ.get("LOCAL_RANK", "0") == "0")


class Peers:
    """The hosts of a training while a ``with`` block runs. One host: nothing happens.

    Raises ``UserError`` at its start where the hosts are not alike. A block that fails tells the
    others why. Where another host has gone, this process ends with one sentence and the code 75.

    stage: whose inputs are compared.
    """

    def __init__(self, stage: str):
        self.stage, self.place = stage, Place.read()
        self.names: list[str] = []
        self.said: dict[int, str] = {}  # last sign of life by host
        self.heard: dict[int, float] = {}  # when it came
        self.limit = SILENCE
        self.last, self.ended = DONE, threading.Event()
        self.talk = threading.Thread(target=self._talk, daemon=True)

    def __enter__(self) -> "Peers":
        if self.place.hosts > 1:
            workers.die_with_launcher()
            address = choose_interface()
            store = _store(MEETING)
            if self.place.first:
                mine = facts_of(self.stage) | {"name": f"{socket.gethostname()}, {address}"}
                store.set(self._key("facts"), json.dumps(mine, sort_keys=True, default=str))
            every = [self._facts(store, host) for host in range(self.place.hosts)]
            self.names = [f"host {host} ({facts['name']})" for host, facts in enumerate(every)]
            for name, facts in zip(self.names, every, strict=True):
                if what := difference(every[0], facts, self.names[0], name):
                    self._give_way()
                    raise UserError(what)
            now = time.monotonic()
            self.heard = {host: now for host in range(self.place.hosts) if host != self.place.host}
            self.talk.start()
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.heard:
            return
        if isinstance(error, RuntimeError) and workers.peer_lost(error):
            self.limit = CLOSED
            self.ended.wait(2 * CLOSED)  # meanwhile the watch ends this process, as a rule
        self.last = DONE if error is None else f"{FAULT}{_why(error)}"
        self.ended.set()
        self.talk.join(2 * BEAT)
        if isinstance(error, Exception):
            self._give_way()

    def _give_way(self) -> None:
        """Let the first process of the host tell an error that all have met; it is then enough."""
        if not self.place.first:
            time.sleep(workers.GRACE)

    def _facts(self, store: "Store", host: int) -> Any:
        try:
            return json.loads(store.get(self._key("facts", host)))
        except Exception as error:  # torch has several for a timeout
            raise UserError(
                f"host {host} of this training has not begun within {MEETING:.0f} seconds "
                f"({reason(error)})"
            ) from None

    def _key(self, kind: str, host: int | None = None) -> str:
        return f"{kind}/{self.place.host if host is None else host}"

    # --- signs of life ----------------------------------------------------------------------------

    def _talk(self) -> None:
        """Write the signs of life of this host, and read those of the others."""
        try:
            store, count = _store(SILENCE), 0
            while not self.ended.is_set():
                if self.place.first:
                    store.set(self._key("life"), str(count := count + 1))
                for host in self.heard:
                    key = self._key("life", host)
                    if store.check([key]):
                        self._hear(host, store.get(key).decode())
                self.ended.wait(BEAT)
            if self.place.first:
                store.set(self._key("life"), self.last)
        except Exception as error:  # the store has gone: the watch says who had it
            log.debug("the store of the hosts has gone (%s)", error)

    def _hear(self, host: int, said: str) -> None:
        if self.said.get(host) != said:
            self.said[host], self.heard[host] = said, time.monotonic()

    def _watch(self) -> None:
        """End this process when another host has gone."""
        while not self.ended.wait(BEAT / 4):
            if what := self.gone():
                if self.place.first:
                    if self.limit == SILENCE:  # the line of the progress is still open
                        print(file=sys.stderr)
                    say(what)
                else:
                    time.sleep(BEAT)  # the first process of the host says it
                sys.stderr.flush()
                os._exit(workers.PEER_LOST)

    def gone(self) -> str:
        """A sentence about the host that has gone, empty where all are there."""
        now = time.monotonic()
        for host, said in self.said.items():
            # A fault that all meet is told by each itself, by some later than by others.
            met = self.limit == CLOSED or now - self.heard[host] > SILENCE
            if said.startswith(FAULT) and met:
                return f"{self.names[host]} has stopped: {said.removeprefix(FAULT)}"
        here = [host for host in self.heard if self.said.get(host) != DONE]
        silent = [host for host in here if now - self.heard[host] > self.limit]
        if not silent:
            return ""
        # The first host has the store: without it nobody is heard.
        gone = 0 if 0 in silent else silent[0]
        return (
            f"{self.names[gone]} has ended or cannot be reached; nothing half-written was kept. "
            "Start again on all hosts, or on fewer: it goes on from its last checkpoint"
        )


def _why(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    return str(error) if isinstance(error, UserError) else reason(error)


def _store(seconds: float) -> "Store":
    """A connection of its own to the store of the launcher."""
    from torch.distributed import PrefixStore, TCPStore

    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=seconds),
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"prosmin/{attempt}", store)


def choose_interface() -> str:
    """Make gloo use the network by which the first host is reached; returns the address there.

    Gloo would take the address that the name of this host stands for, on Debian one of loopback.
    """
    import psutil

    first = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    family, kind, protocol, _, address = socket.getaddrinfo(*first, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # which sends nothing
        own = str(probe.getsockname()[0])
    for name, addresses in psutil.net_if_addrs().items():
        loopback = own.startswith("127.") and name in workers.LOOPBACKS
        if loopback or any(one.address.partition("%")[0] == own for one in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    return own


# --- are they alike? ------------------------------------------------------------------------------


def facts_of(stage: str) -> dict[str, Any]:
    """What a training reads on this host, as JSON: params, files, versions."""
    look = inputs.look(declared.address(stage, []))
    versions = {name: version(name) for name in PACKAGES} | {"Python": platform.python_version()}
    return {
        "params": look.values if look else {},
        # Large files, whose checksums the small manifest has, are left out.
        "files": {path: md5 for path, md5 in look.files.items() if not isinstance(md5, tuple)}
        if look
        else {},
        "versions": versions,
    }


def difference(first: Facts, other: Facts, here: str, there: str) -> str:
    """The first difference between two hosts as a sentence, empty where there is none."""
    for key, before in first["params"].items():
        now = other["params"].get(key)
        if before != now:
            key, before, now = inputs.inner(key, before, now)
            return f"{PARAMS}: {key} is {before!r} on {here} and {now!r} on {there}"
    for path in sorted({*first["files"], *other["files"]}):
        if first["files"].get(path) != other["files"].get(path):
            remedy = "`dvc pull` it from one place" if _data(path) else "bring both to one commit"
            return f"{path} is not the same on {here} and on {there}; {remedy}"
    for name, before in first["versions"].items():
        now = other["versions"][name]
        if before != now:
            return f"{name} is {before} on {here} and {now} on {there}; install one lock file"
    return ""


def _data(path: str) -> bool:
    return path.startswith("data/")
