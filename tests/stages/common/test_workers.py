"""Several processes that look like one: what is said, how it ends, and that none is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from prosmin.common.errors import UserError
from stages.common import workers

ROOT = Path(__file__).parents[3]
# Where they could meet is left out: these do not train.
START = """
import contextlib, sys
from stages.common import workers
workers.GRACE, workers.meeting = 1.0, lambda: contextlib.nullcontext({})
sys.exit(workers.run('task', 3))
"""


@pytest.fixture
def started(tmp_path):
    """A function that starts three processes of the given code, each with its ``rank``."""

    def start(code):
        head = "import os, sys, time; rank = int(os.environ['RANK'])\n"
        (tmp_path / "task.py").write_text(head + code)
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
        return subprocess.Popen(
            [sys.executable, "-c", START],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_all_run_and_the_first_speaks(started, tmp_path):
    code = (
        "open(str(rank), 'w').write(os.environ['WORLD_SIZE']); "
        "print('process', rank, file=sys.stderr)"
    )
    process = started(code)
    assert process.communicate(timeout=60)[1] == "process 0\n" and process.returncode == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == ["3"] * 3


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('error: all', file=sys.stderr); sys.exit(2)", "error: all\n"),
        (
            "time.sleep(0.3 * (rank == 0)); print('error: all', file=sys.stderr); sys.exit(2)",
            "error: all\n",
        ),
        (
            "rank == 2 and (print('error: two', file=sys.stderr) or sys.exit(2)); time.sleep(3)",
            "error: two\n",
        ),
        (
            "rank == 0 and (print('error: first', file=sys.stderr) or sys.exit(2)); time.sleep(60)",
            "error: first\n",
        ),
    ],
    ids=["all", "the first last", "another alone", "the first alone"],
)
def test_an_error_is_said_once_and_ends_all(started, code, said):
    process = started(code)
    assert process.communicate(timeout=60)[1] == said and process.returncode == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_is_named(started, rank):
    process = started(f"rank == {rank} and os.kill(os.getpid(), 9); time.sleep(3)")
    assert process.communicate(timeout=60)[1] == f"error: process {rank} was ended by SIGKILL\n"
    assert process.returncode == 137


@pytest.mark.parametrize(
    ("code", "said", "ended"),
    [
        ("os.kill(os.getpid(), 15)", "process 1 was ended by SIGTERM", 143),
        ("sys.exit('error: one')", "one", 1),
    ],
)
def test_the_cause_is_told_and_not_its_effect_on_the_others(started, code, said, ended):
    process = started(f"""
if rank == 1:
    time.sleep(0.3)
    {code}
sys.exit(75)""")
    assert process.communicate(timeout=60)[1] == f"error: {said}\n"
    assert process.returncode == ended


@pytest.mark.parametrize(("threads", "share"), [("7", "2"), ("6,2", "2"), ("2", "1"), ("", "1")])
def test_the_threads_of_a_stage_are_shared_out(started, tmp_path, monkeypatch, threads, share):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    process = started("open(str(rank), 'w').write(os.environ['OMP_NUM_THREADS'])")
    assert process.communicate(timeout=60)[1] == ""
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [share] * 3


def alive(processes):
    states = [Path(f"/proc/{process}/stat") for process in processes]
    return [
        path
        for path in states
        if path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_none_outlives_the_one_that_started_them(started, tmp_path, number):
    code = (
        "open(f'{rank}.part', 'w').write(str(os.getpid())); "
        "os.rename(f'{rank}.part', f'{rank}.pid'); time.sleep(60)"
    )
    process = started(code)
    while len(processes := list(tmp_path.glob("*.pid"))) < 3:
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    processes = [int(path.read_text()) for path in processes]
    for _ in range(100):
        if not alive(processes):
            break
        time.sleep(0.05)
    assert not alive(processes)


def test_processes_meet_on_loopback_alone():
    with workers.meeting() as variables:
        assert variables["MASTER_ADDR"] == "127.0.0.1"
        hosts = {
            connection.laddr.ip
            for connection in psutil.Process().net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
            and connection.laddr.port == int(variables["MASTER_PORT"])
        }
    assert hosts == {"127.0.0.1"}


@pytest.mark.parametrize(("given", "gpu", "count"), [("0", True, 0), ("3", False, 3), (None, 0, 1)])
def test_the_number_of_processes_that_decode(monkeypatch, given, gpu, count):
    monkeypatch.delenv("PROSMIN_WORKERS", raising=False)
    if given:
        monkeypatch.setenv("PROSMIN_WORKERS", given)
    assert workers.decoders(2, gpu) == count


@pytest.mark.parametrize("given", ["-1", "4097", "many"])
def test_a_number_of_processes_that_decode_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("PROSMIN_WORKERS", given)
    with pytest.raises(UserError, match=rf"PROSMIN_WORKERS is '{given}'; .* processes, 0 to 4096"):
        workers.decoders(2, True)
