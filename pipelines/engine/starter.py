"""Start DVC many times and load it once: a process that has DVC imported and forks one, below a guard, for each stage.

Loading DVC and what it loads late takes half a second of a core, which is what many a leaf takes itself. Forking is sound here
because this process has one thread and has opened nothing.

    with Starter(folder) as starter:
        process = starter.start(["repro", "--single-item", "linear"], environment)
        for line in process.output: ...
        code = process.wait()
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).parents[2]
HEADER = 8  # bytes that say how long a request is
if __name__ == "__main__":  # started by its path, in a Python that knows of no other folder
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # it has nothing to clean up: what it has forked stands below guards
    sys.path.insert(0, str(ROOT))

from pipelines.engine import guard, quick  # noqa: E402


def kill_session(leader: int) -> None:
    """Kill what a guard that was itself killed has left behind: all of its session."""
    for _ in range(50):  # what is killed may have started another just before
        found = 0
        for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if name.isdigit() and os.getsid(int(name)) == leader:
                    with open(f"/proc/{name}/stat") as handle:
                        if handle.read().rpartition(")")[2].split()[0] != "Z":
                            found += 1
                            os.kill(int(name), signal.SIGKILL)
        if not found:
            return
        time.sleep(0.02)


class Process:
    """A running ``dvc`` below its guard. output: its lines, standard output and errors together."""

    def __init__(self, leader: int, output: int, life: int, status: int):
        self.leader = leader  # process id of the guard and number of its session
        self.output: IO[str] = os.fdopen(output, encoding="utf-8", errors="replace")
        self._life, self._guard = life, threading.Lock()
        self._said = ""
        self._watch = threading.Thread(target=self._follow, args=(status,), daemon=True)
        self._watch.start()

    def stop(self) -> None:
        """Interrupt it; its guard kills what is left of it after its grace. From any thread, at any time."""
        with self._guard:
            if self._life >= 0:
                os.close(self._life)
            self._life = -1

    def wait(self) -> int:
        """Its code once it and all it has started have ended, or 128 + a signal, also when the guard itself was killed."""
        self.output.close()
        self._watch.join()
        self.stop()
        return int(self._said or 128 + signal.SIGKILL)

    def _follow(self, status: int) -> None:
        """Read the code from the guard, which alone holds the other end; when it has died without a word, do its work."""
        with open(status) as pipe:
            self._said = pipe.read()
        if not self._said and self.leader:
            kill_session(self.leader)


class Starter:
    """Starts ``dvc`` in ``folder`` on request, from any thread. Its own process comes with the first request."""

    def __init__(self, folder: Path, lock: int | None = None):
        """lock: of ``workspace.alone``, which the guards then hold as well, until nothing of what they guard is left."""
        self.folder, self._locks = folder, [] if lock is None else [lock]
        self._guard = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def __enter__(self) -> "Starter":
        return self

    def __exit__(self, *error: object) -> None:
        if self._server and self._channel:
            self._channel.close()  # upon which it ends
            self._server.wait()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Process:
        (output, told), (alive, life), (status, ended) = (os.pipe() for _ in range(3))
        request = json.dumps(
            {"arguments": list(arguments), "environment": dict(environment)}
        ).encode()
        with self._guard:
            if self._server is None or self._server.poll() is not None:
                self._begin(environment)
            try:
                socket.send_fds(
                    self._channel, [len(request).to_bytes(HEADER)], [told, alive, ended]
                )
                self._channel.sendall(request)
                leader = int(self._channel.recv(16) or 0)
            except (BrokenPipeError, ConnectionResetError):
                leader = 0  # it was killed just now; the pipes say the same: no output, no status
            finally:
                for end in (told, alive, ended):
                    os.close(end)
        return Process(leader, output, life, status)

    def _begin(self, environment: Mapping[str, str]) -> None:
        self._channel, theirs = socket.socketpair()
        self._server = subprocess.Popen(
            [sys.executable, "-I", __file__, str(theirs.fileno())],
            cwd=self.folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno(), *self._locks],
            start_new_session=True,
        )
        theirs.close()


# --- the other side -------------------------------------------------------------------------------


def serve(channel: socket.socket) -> None:
    """Fork a guarded DVC for each request, until the other end is closed or dead."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the children
    preload()
    while True:
        size, pipes, _, _ = socket.recv_fds(channel, HEADER, 3)
        if not size:
            return
        request = json.loads(_exactly(channel, int.from_bytes(size)))
        child = os.fork()
        if not child:
            channel.close()
            _end(_guarded, request["arguments"], request["environment"], *pipes)
        for pipe in pipes:
            os.close(pipe)
        channel.sendall(str(child).encode())


def preload() -> None:
    """Import what ``dvc repro`` needs, by a look at the graph; what is wrong with it will be said by the one that runs."""
    import dvc.cli.parser
    import dvc.repo.reproduce
    from dvc.repo import Repo

    quick.apply()
    dvc.cli.parser.get_main_parser()
    with contextlib.suppress(Exception), Repo() as repo:
        assert repo.index.graph


def _exactly(channel: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        content += channel.recv(size - len(content))
    return content


def _guarded(
    arguments: list[str], environment: dict[str, str], told: int, alive: int, ended: int
) -> int:
    os.setsid()
    for pipe, place in ((alive, 0), (told, 1), (told, 2)):
        os.dup2(pipe, place)
    for pipe in {alive, told}:
        os.close(pipe)
    os.environ.clear()
    os.environ.update(environment)

    def start() -> int:
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            os.close(ended)
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), 0)
            signal.set_wakeup_fd(-1)
            for number in (*guard.STOPS, signal.SIGCHLD):
                signal.signal(
                    number,
                    signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL,
                )
            _end(_dvc, arguments)
        with contextlib.suppress(
            OSError
        ):  # it has done so itself, and may have gone on to what forbids it
            os.setpgid(child, child)
        return child

    code = guard.watch(start)
    os.write(ended, str(code).encode())
    return code


def _dvc(arguments: list[str]) -> int:
    from dvc.cli import main

    return main(arguments)


def _end(body: Callable[..., int], *arguments: Any) -> NoReturn:
    """End this forked process with the code of ``body``, with nothing that the parent has registered for its own end."""
    code = 1
    try:
        code = body(*arguments)
    except KeyboardInterrupt:
        code = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
