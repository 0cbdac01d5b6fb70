"""Hosts on one machine: network namespaces of Linux, joined by a bridge, without a shared folder.

A process of a host reaches the addresses of the hosts and nothing else. It sees an empty folder in
the place of the folder of every other host.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NETWORK = "10.77.0"
HIDE = 'count=$1; shift; while [ $count -gt 0 ]; do mount -t tmpfs none "$1" || exit 99; shift; '
HIDE += 'count=$((count - 1)); done; exec "$@"'


class Host:
    """A host with a folder, which is its home too. space: the name of its network namespace."""

    def __init__(self, folder: Path, number: int, others: list[Path]):
        self.folder, self.others = folder, others
        self.name, self.address = folder.name, f"{NETWORK}.{number}"
        self.space = f"prosmin{os.getpid()}-{number}"
        self.variables = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "DVC_NO_ANALYTICS": "1",
            "PROSMIN_CORES": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TMPDIR": str(folder / "tmp"),
        }

    def start(self, *command: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        hidden = [str(len(self.others)), *map(str, self.others)]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.space, "sh", "-c", HIDE, "sh", *hidden, *command],
            cwd=cwd or self.folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self,
        *command: str,
        cwd: Path | None = None,
        expect: int | None = 0,
        timeout: float | None = 500,
    ) -> str:
        """The output of a command, which must end with the code ``expect``."""
        process = self.start(*command, cwd=cwd)
        output, _ = process.communicate(timeout=timeout)
        assert expect is None or process.returncode == expect, output
        return output

    def pids(self) -> list[int]:
        listed = subprocess.run(
            ["ip", "netns", "pids", self.space], capture_output=True, text=True
        ).stdout
        return list(map(int, listed.split()))

    def running(self) -> dict[int, str]:
        """Command lines of the processes in this host, by id."""
        lines = {}
        for number in self.pids():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if words:  # else a zombie
                    lines[number] = words
        return lines

    def processes(self) -> list[str]:
        """Command lines of the processes in this host."""
        return list(self.running().values())

    def connect(self, on: bool) -> None:
        """Plug in the network cable of a host that is not the first, or pull it out."""
        ip("-n", self.space, "link", "set", "eth0", "up" if on else "down")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def hosts(folder: Path, *names: str) -> Iterator[list[Host]]:
    """Hosts with folders of these names in ``folder``, while the block runs."""
    folders = [folder / name for name in names]
    for path in folders:
        (path / "tmp").mkdir(parents=True)
    made = [
        Host(path, number, [other for other in folders if other != path])
        for number, path in enumerate(folders, 1)
    ]
    first = made[0].space
    try:
        for host in made:
            ip("netns", "add", host.space)
            ip("-n", host.space, "link", "set", "lo", "up")
        ip("-n", first, "link", "add", "bridge", "type", "bridge")
        ip("-n", first, "addr", "add", f"{made[0].address}/24", "dev", "bridge")
        ip("-n", first, "link", "set", "bridge", "up")
        for host in made[1:]:
            peer = ("peer", "name", "eth0", "netns", host.space)
            ip("-n", first, "link", "add", host.name, "type", "veth", *peer)
            ip("-n", first, "link", "set", host.name, "master", "bridge", "up")
            ip("-n", host.space, "addr", "add", f"{host.address}/24", "dev", "eth0")
            host.connect(True)
        yield made
    finally:
        for host in made:
            for process in host.pids():  # of a test that failed
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", host.space], capture_output=True)


def reason() -> str:
    """Why there can be no hosts on this machine, or an empty text."""
    if missing := [name for name in ("ip", "ssh") if not shutil.which(name)]:
        return f"{missing[0]} is not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    space, link = f"prosmin{os.getpid()}-try", ("link", "add", "try", "type", "bridge")
    try:
        ip("netns", "add", space)
        ip("-n", space, *link)
        mount = ("sh", "-c", "mount -t tmpfs none /mnt")
        ip("netns", "exec", space, *mount)
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be used: {error.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", space], capture_output=True)
    return ""
