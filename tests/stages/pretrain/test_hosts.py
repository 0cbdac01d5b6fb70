"""Training on two hosts: clones without a shared folder, on loopback or in their own networks."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.pipelines import hosts
from tests.pipelines.clones import TINY, clone, command, edit, ran
from tests.pipelines.projects import until

pytestmark = pytest.mark.integration
PORT = 29617
SHARED = ("fetch.digits.limit", "pretrain.batch_size", "pretrain.encoder.kwargs")
DIGITS = {key: TINY[key] for key in SHARED} | {
    "pretrain.epochs": 4,
    "pretrain.warmup_epochs": 0,
}
STEPS = 4 * (260 // 32)
QUICK = {"OMP_NUM_THREADS": "1", "PROSMIN_CHECKPOINT_SECONDS": "0", "PYTHONUNBUFFERED": "1"}
TRAIN = (sys.executable, "-m", "stages.pretrain")


def options(number: int, address: str, processes: int = 1) -> dict[str, str]:
    """Variables of a host for torchrun's engine."""
    said = f"--nnodes 2 --node-rank {number} --master-addr {address} --master-port {PORT}"
    return QUICK | {"PROSMIN_HOSTS": f"{said} --nproc-per-node {processes}"}


def config(folder: Path, number: int, address: str, processes: int) -> dict[str, str]:
    """Variables of a host for a file of ``accelerate config``."""
    content = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_CPU",
        "machine_rank": number,
        "main_process_ip": address,
        "main_process_port": PORT,
        "mixed_precision": "no",
        "num_machines": 2,
        "num_processes": 2 * processes,
        "use_cpu": True,
    }
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return QUICK | {"PROSMIN_HOSTS": str(path)}


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder."""
    found = folder.glob(".prosmin/checkpoints/*/step-*.safetensors")
    return sorted(int(path.stem.partition("-")[2]) for path in found)


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "results/pretrain").iterdir()}


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL a process and all below it, as if their host lost its power."""
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(member.pid, signal.SIGKILL)


def said_once(output: str, start: str) -> str:
    """The only error in an output, which begins with ``start``."""
    assert "Traceback" not in output, output
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith(f"error: {start}"), output
    return errors[0]


# --- loopback: no root, no network ----------------------------------------------------------------


@pytest.fixture
def two(tmp_path) -> Iterator[list[Path]]:
    """Two clones with the same dataset."""
    folders = [tmp_path / name for name in ("desk", "shelf")]
    for folder in folders:
        folder.mkdir()
        clone(folder, DIGITS)
    command(folders[0], "-m", "stages.fetch", "digits", environment=QUICK)
    shutil.copytree(folders[0] / "data", folders[1] / "data", dirs_exist_ok=True)
    yield folders


def start(folder: Path, variables: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        TRAIN,
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(300)
def test_a_host_dies_and_the_other_says_so_and_goes_on_alone(two):
    """The hosts are 127.0.0.1 and a port: what differs is the folder, the home and the agents."""
    desk, shelf = two
    hosts = [start(folder, options(n, "127.0.0.1")) for n, folder in enumerate(two)]
    until(lambda: max(steps(desk), default=0) >= 3, 120)
    kill(hosts[1])
    output, _ = hosts[0].communicate(timeout=120)
    assert hosts[0].returncode == 75
    said_once(output, "host 1 (")
    assert "has ended or cannot be reached" in output
    kept = steps(desk)[-1]
    assert kept < STEPS and not (desk / "results").exists()
    assert not steps(shelf) and not (shelf / "results").exists()
    output = command(desk, "-m", "stages.pretrain", environment=QUICK)
    assert f"goes on from step {kept} of {STEPS}" in output
    assert "the checkpoint is of 2 processes, now there are 1" in output
    assert not steps(desk) and b'"continued"' in results(desk)["model.json"]


# --- networks of their own: as root, on demand ----------------------------------------------------


@pytest.fixture
def networked(tmp_path) -> Iterator[list[hosts.Host]]:
    with hosts.hosts(tmp_path, "desk", "shelf") as made:
        for host in made:
            host.variables |= QUICK
            clone(project(host), DIGITS)
            host.run("dvc", "repro", "--quiet", "fetch@digits", cwd=project(host))
        yield made


def project(host: hosts.Host) -> Path:
    folder = host.folder / "project"
    folder.mkdir(exist_ok=True)
    return folder


def together(made: list[hosts.Host], *stages: str, **more: str) -> list[subprocess.Popen[str]]:
    """The same command on both hosts, with two processes each."""
    for number, host in enumerate(made):
        host.variables |= config(project(host), number, made[0].address, 2) | more
    repro = (sys.executable, "-m", "pipelines.repro")
    return [host.start(*repro, *stages, cwd=project(host)) for host in made]


def ends(processes: list[subprocess.Popen[str]]) -> list[str]:
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return outputs


def forget(desk: hosts.Host, shelf: hosts.Host) -> None:
    """Make the desk's clone as it was before the training, as the other one still is."""
    shutil.rmtree(project(desk) / "results")
    shutil.rmtree(project(desk) / ".dvc/cache/runs")
    shutil.copy(project(shelf) / "dvc.lock", project(desk))


@pytest.mark.machines
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(reason := hosts.reason()), reason=reason)
def test_two_hosts_of_two_processes_are_one_host_of_four(networked, tmp_path):
    """Also where one loses its network and is killed, and the run goes on on both, or on one."""
    desk, shelf = networked
    one = tmp_path / "one"
    one.mkdir()
    clone(one, DIGITS)
    four = QUICK | {"PROSMIN_PROCESSES": "4", "PROSMIN_CORES": "1"}
    command(one, "-m", "dvc", "repro", "--quiet", "pretrain", environment=four)

    # Unlike hosts end before anything is trained.
    edit(project(shelf), {"pretrain.lr": 0.5})
    for process in together(networked, "pretrain"):
        output, _ = process.communicate(timeout=100)
        said = said_once(output, "params.yaml: pretrain.lr is ")
        assert f" and 0.5 on host 1 ({os.uname().nodename}, {shelf.address})" in said
    assert not steps(project(desk))
    shutil.copy(project(desk) / "params.yaml", project(shelf))

    # Both to the end: one dvc.lock, on the first host.
    outputs = ends(together(networked, "pretrain"))
    assert ran(outputs[0]) == {"pretrain"} and not ran(outputs[1])
    assert results(project(desk)) == results(one)
    lock = (project(desk) / "dvc.lock").read_bytes()
    assert lock == (one / "dvc.lock").read_bytes()
    assert not (project(shelf) / "results").exists()

    # The network of a host goes away in the middle; the other names it.
    forget(desk, shelf)
    first, second = together(networked, "pretrain")
    until(lambda: max(steps(project(desk)), default=0) >= 3, 300)
    shelf.connect(False)
    output, _ = first.communicate(timeout=120)
    said_once(output, f"host 1 ({os.uname().nodename}, {shelf.address}) has ended or cannot be")
    output, _ = second.communicate(timeout=120)
    said_once(output, f"host 0 ({os.uname().nodename}, {desk.address}) has ended or cannot be")
    assert not shelf.processes() and 3 <= steps(project(desk))[-1] < STEPS
    kept = tmp_path / "kept"
    shutil.copytree(project(desk) / ".prosmin/checkpoints", kept)

    # One host with as many processes goes on to the same bytes.
    desk.variables = {k: v for k, v in desk.variables.items() if k != "PROSMIN_HOSTS"} | four
    output = desk.run("dvc", "repro", "pretrain", cwd=project(desk))
    assert "goes on from step" in output and results(project(desk)) == results(one)

    # So do both hosts.
    forget(desk, shelf)
    shutil.copytree(kept, project(desk) / ".prosmin/checkpoints", dirs_exist_ok=True)
    shelf.connect(True)
    outputs = ends(together(networked, "pretrain"))
    assert "goes on from step" in outputs[0] and results(project(desk)) == results(one)
    assert (project(desk) / "dvc.lock").read_bytes() == lock
