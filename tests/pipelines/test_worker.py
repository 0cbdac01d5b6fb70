"""A sweep over two workers on hosts of their own: the results are those of one machine."""

import os
import re
import shutil
import signal
import sys
import time

import pytest

from tests.pipelines import clock, hosts
from tests.pipelines.desk import SECRET, Machines
from tests.pipelines.flows.test_grid import RANK
from tests.pipelines.projects import recorded, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.machines,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(reason := hosts.reason()), reason=reason),
]
# The first point waits in its stage until a file is there. The third cannot work.
SWEEP = f"""
grid: {{pretrain.epochs: [777, 6, -1, 1, 2, 3, 4, 5]}}
rank: {RANK}
stages: [leaf@one]
"""
WORKING = [f"epochs-{place}" for place in range(8) if place != 2]
CUT = 20.0  # seconds for which the network of the other worker is cut
AWAY = 60.0  # seconds for which neither the server nor the remotes answer


@pytest.fixture
def machines(tmp_path, empty_database):
    with hosts.hosts(tmp_path, "desk", "one", "two") as made:
        machines = Machines(made, {"epochs.yaml": SWEEP})
        home = machines.project.folder / ".prosmin/prefect"
        home.mkdir(parents=True)
        if empty_database.is_file():
            shutil.copy(empty_database, home / "prefect.db")
        try:
            machines.serve()
            for worker in machines.workers:
                machines.clone(worker)
            machines.wait_for("server", "Uvicorn running")
            yield machines
        finally:
            machines.close()


def test_two_workers_make_a_sweep_and_one_dies_in_the_middle(machines):
    """The network of the other, then the server and the remotes are away for a while."""
    folder = machines.project.folder
    given = ("epochs.yaml", "--pool", "prosmin", "--patience", "150")
    sweep = (sys.executable, "-m", "pipelines.sweep")
    machines.start("sweep", machines.desk, *sweep, *given, cwd=folder)
    for worker in machines.workers:
        machines.work(worker)
    killed = until(machines.waiting, 300)
    for host in (machines.desk, *machines.workers):
        assert not [line for line in host.processes() if SECRET.partition(":")[2] in line]
    killed.connect(False)  # as at a power cut, the server hears nothing of it
    machines.started[killed.name].kill()
    until(lambda: not killed.processes(), 60)
    (kept,) = [worker for worker in machines.workers if worker is not killed]
    kept.connect(False)
    time.sleep(CUT)
    kept.connect(True)
    away = [machines.started[name] for name in ("server", "ssh")]  # the remotes are behind SSH
    for process in away:
        process.send_signal(signal.SIGSTOP)
    time.sleep(AWAY)
    for process in away:
        process.send_signal(signal.SIGCONT)
    for host in (kept, machines.desk):
        (host.folder / "record.go").touch()
    code = machines.started["sweep"].wait(timeout=500)
    until(lambda: machines.said["sweep"][-1:] != [] and "points done" in machines.said["sweep"][-1])
    said = "".join(machines.said["sweep"])
    ending = "7 of 8 points done; failed: epochs-2\n"
    assert code == 1 and machines.said["sweep"][-1] == ending, said
    silent = f"epochs-0: the worker {killed.name} ended (it was silent for "
    assert [line for line in machines.said["sweep"] if line.startswith(silent)], said
    assert "epochs-2: params.yaml: pretrain.epochs is -1; it must be at least 1\n" in said
    ranked = [line.split() for line in said.splitlines() if line.startswith("epochs-")]
    ranked = [row for row in ranked if not row[0].endswith(":")]
    assert len(ranked) == 8 and ranked[7][0] == "epochs-2"
    values = [float(row[2]) for row in ranked[:7]]
    assert values == sorted(values, reverse=True) and len(set(values)) == 7
    listed = machines.on_desk("dvc", "exp", "list", "--name-only").split()
    assert sorted(listed) == WORKING

    # The same sweep on the desk is the same to the byte, and the results are in the desk's cache.
    alone = ("-m", "pipelines.sweep", "epochs.yaml", "--name", "alone", "--slots", "1")
    machines.on_desk(sys.executable, *alone, expect=1)
    references = machines.project.git("for-each-ref", "--format=%(refname)", "refs/exps/")
    pairs = {name.rpartition("/")[2]: name for name in references.split()}
    for name in WORKING:
        both = pairs[name], pairs[name.replace("epochs", "alone")]
        assert machines.project.git("diff", *both, "--", ".", ":!.dvc/tmp") == ""
    for name in listed:
        lock = machines.project.git("show", f"{pairs[name]}:dvc.lock")
        for md5 in re.findall(r"path: results/middle\n\s+hash: md5\n\s+md5: (\w+)", lock):
            assert (folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).is_file()

    # Nothing is left: no process, no clone of a point, no code of the sweep in the git remote.
    assert not list((kept.folder / "a clone/.prosmin/experiments").iterdir())
    left = machines.project.git("ls-remote", "origin", "refs/sweeps/*")
    assert left == "" and machines.project.git("status", "--short") == ""
    machines.started[kept.name].send_signal(signal.SIGINT)
    machines.started[kept.name].wait(timeout=30)
    until(lambda: not kept.processes(), 20)
    everything = "".join(line for lines in machines.said.values() for line in lines)
    assert SECRET.partition(":")[2] not in everything


def test_what_a_worker_cannot_use_is_one_sentence(machines):
    one = machines.workers[0]
    clone, worker = one.folder / "a clone", (sys.executable, "-m", "pipelines.worker")
    one.variables["PREFECT_API_AUTH_STRING"] = "prosmin:guess"
    said = one.run(*worker, machines.server, cwd=clone, expect=2)
    assert said == (
        f"error: the server {machines.server} cannot be used: it refuses the password "
        "(set PREFECT_API_AUTH_STRING)\n"
    )


OVER_WORKERS = ("--pool", "prosmin", "--patience", "60")


def sweep(machines: Machines, name: str, epochs: str, *options: str) -> tuple[str, ...]:
    """The words of a sweep. epochs: values of pretrain.epochs."""
    text = f"grid: {{pretrain.epochs: {epochs}}}\nrank: {RANK}\nstages: [leaf@one]\n"
    (machines.project.folder / f".prosmin/{name}.yaml").write_text(text)
    return (sys.executable, "-m", "pipelines.sweep", f".prosmin/{name}.yaml", *options)


def ran(worker: hosts.Host) -> list[str]:
    """The stages that a worker has begun."""
    return [line["stage"] for line in recorded(worker.folder / "record") if "begin" in line]


def accuracies(said: str) -> dict[str, float]:
    """The number of each point in the table of a sweep, by the value of its setting."""
    rows = [line.split() for line in said.splitlines() if re.match(r"[\w-]+ +\d+ +[\d.]+$", line)]
    return {row[1]: float(row[2]) for row in rows}


def test_clocks_apart_queues_and_workers_with_other_code_or_packages(machines, tmp_path):
    one, two = machines.workers
    for worker, seconds in ((one, -600), (two, 600)):
        worker.variables |= clock.ahead(tmp_path, seconds)
        shown = float(worker.run("python", "-c", "import time; print(time.time())"))
        assert abs(shown - time.time() - seconds) < 60
    # Code and packages of the workers themselves. A point has the code of its sweep.
    (one.folder / "a clone/work.py").write_text("raise SystemExit('the code of the worker')")
    (two.folder / "a clone/requirements.lock").write_text("prefect==0\n")
    machines.work(one)
    machines.wait_for("one", "serves the queue")
    said = machines.on_desk(*sweep(machines, "skewed", "[1, 2]", *OVER_WORKERS))
    assert "2 of 2 points done" in said and ran(one).count("middle") == 2
    here = machines.on_desk(*sweep(machines, "alone", "[1, 2]"))
    assert accuracies(said) == accuracies(here) and len(accuracies(said)) == 2

    # The queue of one kind of worker is served by that kind alone.
    machines.work(two, "--queue", "h100")
    machines.wait_for("two", "serves the queue")
    words = sweep(machines, "other", "[3]", *OVER_WORKERS, "--queue", "h100")
    said = machines.on_desk(*words, expect=1)
    assert (
        "other-0: the worker two has the packages of another requirements.lock than the sweep; "
        "there, `git pull` and start `make worker` again\n"
    ) in said
    assert ran(two) == [] and ran(one).count("middle") == 2
    two.run("git", "checkout", "--quiet", "requirements.lock", cwd=two.folder / "a clone")
    said = machines.on_desk(*words)
    assert "1 of 1 points done" in said
    assert ran(two).count("middle") == 1 and ran(one).count("middle") == 2


@pytest.mark.parametrize("full", [".dvc/cache", ".prosmin"])
def test_a_worker_whose_disk_is_full_says_so_and_nothing_is_lost(machines, full):
    one = machines.workers[0]
    clone = one.folder / "a clone"
    (clone / full).mkdir(exist_ok=True)
    small = ("sh", "-c", f'mount -t tmpfs -o size=4k none {full} && exec "$@"', "sh")
    machines.work(one, under=small)
    machines.wait_for("one", "serves the queue")
    words = sweep(machines, "full", "[1]", *OVER_WORKERS)
    said = machines.on_desk(*words, expect=1)
    (why,) = [line for line in said.splitlines() if line.startswith("full-0: ")]
    assert "No space left on device" in why and "Traceback" not in said
    machines.started["one"].terminate()
    machines.started.pop("one").wait(timeout=60)
    machines.work(one)
    said = machines.on_desk(*words)
    assert "1 of 1 points done" in said


def test_a_sweep_that_was_killed_takes_up_the_points_that_still_run(machines):
    one, folder = machines.workers[0], machines.project.folder
    machines.work(one)
    words = sweep(machines, "again", "[777, 4]", *OVER_WORKERS)
    machines.start("first", machines.desk, *words, cwd=folder)
    until(machines.waiting, 300)
    for process, line in machines.desk.running().items():
        if "pipelines.sweep" in line:
            os.kill(process, signal.SIGKILL)
    machines.started.pop("first").wait(timeout=30)
    machines.start("second", machines.desk, *words, cwd=folder)
    time.sleep(20)
    (one.folder / "record.go").touch()
    assert machines.started["second"].wait(timeout=300) == 0, machines.said["second"]
    assert "2 of 2 points done" in "".join(machines.said["second"])
    assert ran(one).count("middle") == 2  # of two points: none was begun again
    assert not list((one.folder / "a clone/.prosmin/experiments").iterdir())
    assert machines.project.git("ls-remote", "origin", "refs/sweeps/*") == ""
