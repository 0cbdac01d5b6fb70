"""A real cluster of Slurm with one node, which is this machine."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pipelines.flows.server import free_port
from tests.pipelines.projects import until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={name}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/node.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/node.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
KillWait=5
MinJobAge=300
ReturnToService=2
NodeName={name} NodeAddr=127.0.0.1 CPUs=2
PartitionName=short Nodes=ALL Default=YES State=UP
"""


def reason() -> str:
    """Why there can be no cluster on this machine, or an empty text."""
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        return f"{missing[0]} is not installed"
    return "Slurm's daemons need root here" if os.geteuid() else ""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Variables by which Slurm's commands find a cluster, which runs while the block runs."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder, name=socket.gethostname(), controller=free_port(), node=free_port()
        )
    )
    files = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file")]
    commands = (
        # munged refuses folders that others may write to, as those of a test are.
        ["munged", "--foreground", "--force", f"--key-file={key}", *files],
        ["slurmctld", "-D", "-f", str(configuration)],
        ["slurmd", "-D", "-f", str(configuration)],
    )
    variables = {"SLURM_CONF": str(configuration)}
    running = []
    try:
        for command in commands:
            process = subprocess.Popen(
                command,
                env={**os.environ, **variables},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            running.append(process)
            if command[0] == "munged":
                until(lambda: (folder / "munge.socket").exists())
        until(lambda: asked("sinfo", "-h", "-o", "%T", **variables).strip() == "idle")
        yield variables
    finally:
        if len(running) == len(commands):  # else jobs would outlive the daemons
            asked("scancel", "--full", "--user", "root", **variables)
            until(lambda: not asked("squeue", "-h", **variables))
        for process in reversed(running):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            process.kill()


def asked(*command: str, **variables: str) -> str:
    """What a command of Slurm says."""
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True
    ).stdout
