"""DVC forked from a process that has loaded it: codes, output, stopping, and what is left when something is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.engine.execute import environment
from pipelines.engine.starter import Starter
from tests.pipelines.conftest import until

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path) -> Path:
    """A DVC project with a stage that sleeps, one that fails and one that tells its environment."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  sleep: {cmd: 'echo $$ > pid; exec sleep 60'}\n"
        "  fail: {cmd: 'echo broken; exit 3'}\n"
        "  tell: {cmd: 'echo told $TOLD; cat'}\n"  # standard input is empty, so cat ends
    )
    return tmp_path


@pytest.fixture
def starter(folder):
    with Starter(folder) as starter:
        yield starter


def run(starter: Starter, stage: str, **variables: str):
    return starter.start(
        ["--wait-for-lock", "repro", "--single-item", stage], environment(variables)
    )


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def sleeper(folder: Path) -> int:
    path = folder / "pid"
    return int(until(lambda: path.is_file() and path.read_text().strip()))


def test_each_has_its_own_environment_output_and_code(starter):
    one, two, three = (
        run(starter, "tell", TOLD="one"),
        run(starter, "tell", TOLD="two"),
        run(starter, "fail"),
    )
    said = [process.output.read() for process in (one, two, three)]
    assert [process.wait() for process in (one, two, three)] == [0, 0, 255]
    assert "told one" in said[0] and "told two" in said[1] and "broken" in said[2]
    server = starter._server
    assert server.poll() is None  # one process has started all three
    starter.__exit__()
    assert server.returncode == 0


def test_what_is_stopped_ends_with_all_it_has_started(starter, folder):
    process = run(starter, "sleep")
    pid = sleeper(folder)
    begun = time.monotonic()
    process.stop()
    process.stop()  # again is no harm
    process.output.read()
    assert process.wait() == 128 + signal.SIGHUP and gone(pid)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("victim", ["server", "guard"])
def test_a_killed_server_is_replaced_and_what_a_killed_guard_has_left_is_killed(
    starter, folder, victim
):
    process = run(starter, "sleep")
    pid = sleeper(folder)
    os.kill(starter._server.pid if victim == "server" else process.leader, signal.SIGKILL)
    if victim == "server":  # what runs goes on, below its guard
        assert not gone(pid)
        process.stop()
        process.output.read()
        assert process.wait() == 128 + signal.SIGHUP
    else:
        process.output.read()  # which ends, because all below the guard is killed
        assert process.wait() == 128 + signal.SIGKILL
        until(lambda: gone(pid), 20)
    again = run(starter, "tell", TOLD="again")
    assert "told again" in again.output.read() and again.wait() == 0


def test_nothing_is_left_when_the_parent_is_killed(folder):
    code = (
        "import sys; from pathlib import Path; from pipelines.engine.starter import Starter; from pipelines.engine.execute import environment\n"
        "process = Starter(Path.cwd()).start(['repro', '--single-item', 'sleep'], environment())\n"
        "process.output.read()"
    )
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": str(root)}
    )
    pid = sleeper(folder)
    parent.kill()
    parent.wait()
    until(lambda: gone(pid), 20)
    until(
        lambda: (
            not (folder / ".dvc/tmp/rwlock").exists()
            or "sleep" not in (folder / ".dvc/tmp/rwlock").read_text()
        )
    )
