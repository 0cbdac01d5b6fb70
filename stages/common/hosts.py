"""Train on several hosts: what PROSMIN_HOSTS says of them, and torchrun's engine that starts them.

The same command runs on every host. On the first, DVC runs the stage; the processes there and those
of the other hosts meet at a store that the first host opens (torch.distributed.run, whose static
rendezvous ``accelerate launch`` and ``torchrun`` use too). PROSMIN_HOSTS is one of

- a file of ``accelerate config``: num_machines, machine_rank, main_process_ip, main_process_port
  and num_processes;
- the options of torchrun: ``--nnodes 2 --node-rank 0 --master-addr 10.0.0.5 --nproc-per-node 2``;
- ``slurm``: the nodes of the Slurm step that this process runs in, with one task each.

None of it is a parameter: addresses and numbers of hosts are neither in ``params.yaml`` nor in
``dvc.lock``. Unless several hosts are named, nothing listens beyond this machine.
"""

import argparse
import contextlib
import io
import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prosmin.common.errors import UserError, reason, shown
from stages.common import memory, threads, workers

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

log = logging.getLogger(__name__)

VARIABLE = "PROSMIN_HOSTS"
SLURM = "slurm"
PORT = 29500  # of torchrun and Accelerate
# Slurm may give a node to two jobs of one user, which must not meet at one port.
SLURM_PORTS = range(20000, 30000)
PATIENCE = 900  # seconds until all hosts have come, unless torchrun's option --rdzv-conf says it


@dataclass(frozen=True)
class Hosts:
    """The hosts of a training, as torchrun knows them.

    count: of the hosts. number: of this one, 0 for the first. address: of the first, with its port.
    processes: on this host. options: torchrun's, parsed.
    """

    count: int
    number: int
    address: str
    processes: int
    options: argparse.Namespace


def given() -> Hosts | None:
    """The hosts that PROSMIN_HOSTS names; None where it names none or only this one.

    Raises:
        UserError: where it says no such thing.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    # Before torch is loaded: it warns of addresses that have no name.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if text == SLURM:
        options = of_slurm(os.environ)
    elif text.startswith("-"):
        try:
            options = shlex.split(text)
        except ValueError as error:
            raise UserError(f"{VARIABLE} is {shown(text)}; {error}") from None
    else:
        options = of_accelerate(Path(text))
    parsed = parse(options)
    count = int(parsed.nnodes)
    if not 0 <= parsed.node_rank < count:
        raise UserError(
            f"{VARIABLE}: the number of this host is {parsed.node_rank}; with {count} hosts it "
            f"must be 0 to {count - 1}"
        )
    from torch.distributed.run import determine_local_world_size

    processes = determine_local_world_size(parsed.nproc_per_node)
    address = f"{parsed.master_addr}:{parsed.master_port}"
    return Hosts(count, parsed.node_rank, address, processes, parsed) if count > 1 else None


def of_accelerate(path: Path) -> list[str]:
    """Options of torchrun for a file of ``accelerate config``.

    Raises:
        UserError: where it is no such file, or leaves out where the hosts meet.
    """
    if not path.is_file():
        raise UserError(
            f"{VARIABLE} is {shown(str(path))}; it must be a file of `accelerate config`, "
            f"options of torchrun that begin with -, or {SLURM}"
        )
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    try:
        config = load_config_from_file(str(path))
    except Exception as error:  # whatever YAML and Accelerate raise for a file of other content
        raise UserError(f"{path} is no file of `accelerate config`: {reason(error)}") from None
    if not isinstance(config, ClusterConfig):
        raise UserError(f"{path}: compute_environment must be LOCAL_MACHINE")
    machines, processes = config.num_machines, config.num_processes
    if machines > 1 and not config.main_process_ip:
        raise UserError(f"{path}: main_process_ip is missing, the address of the first host")
    if processes < 1 or processes % machines:
        raise UserError(
            f"{path}: num_processes is {processes}; it counts the processes of all hosts, "
            f"so it must be a multiple of num_machines, {machines}"
        )
    return _options(
        machines,
        config.machine_rank,
        config.main_process_ip or workers.LOOPBACK,
        config.main_process_port or PORT,
        str(processes // machines),
    )


def of_slurm(variables: Mapping[str, str]) -> list[str]:
    """Options of torchrun for the nodes of the Slurm step that this process runs in.

    variables: of the environment.

    Raises:
        UserError: outside of a step, and for several tasks on a node.
    """
    names = ("SLURM_JOB_ID", "SLURM_NODEID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS")
    if missing := [name for name in names if not variables.get(name)]:
        raise UserError(
            f"{VARIABLE} is {SLURM}, but the environment has no {missing[0]}: "
            "start it by srun, one task per node"
        )
    listed = subprocess.run(
        ["scontrol", "show", "hostnames", variables["SLURM_STEP_NODELIST"]],
        capture_output=True,
        text=True,
    )
    nodes = listed.stdout.split()
    if listed.returncode or not nodes:
        raise UserError(f"scontrol does not tell the nodes of this step: {listed.stderr.strip()}")
    if int(variables["SLURM_STEP_NUM_TASKS"]) != len(nodes):
        raise UserError(
            f"the Slurm step has {variables['SLURM_STEP_NUM_TASKS']} tasks on {len(nodes)} nodes; "
            "start one per node (srun --ntasks-per-node=1): it starts the processes of its node"
        )
    import torch

    default = max(1, torch.cuda.device_count())
    processes = workers.number_of_processes("PROSMIN_PROCESSES", default, 1)
    port = SLURM_PORTS[int(variables["SLURM_JOB_ID"]) % len(SLURM_PORTS)]
    return _options(len(nodes), int(variables["SLURM_NODEID"]), nodes[0], port, str(processes))


def _options(hosts: int, number: int, address: str, port: int, processes: str) -> list[str]:
    return [
        f"--nnodes={hosts}",
        f"--node-rank={number}",
        f"--master-addr={address}",
        f"--master-port={port}",
        f"--nproc-per-node={processes}",
    ]


def parse(options: list[str]) -> argparse.Namespace:
    """Options as torchrun parses them.

    Raises:
        UserError: for an option that it does not know, and for hosts that are not numbered.
    """
    from torch.distributed.run import get_args_parser

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = get_args_parser().parse_args([*options, "-m", "stages.pretrain"])
    except SystemExit:
        why = said.getvalue().strip().splitlines()[-1:] or ["torchrun refuses it"]
        raise UserError(f"{VARIABLE}: {why[0].rpartition('error: ')[2]}") from None
    if not str(parsed.nnodes).isdigit() or parsed.rdzv_backend != "static" or parsed.standalone:
        raise UserError(
            f"{VARIABLE} must number the hosts: --nnodes 2 --node-rank 0 --master-addr ADDRESS; "
            "other kinds of rendezvous may make any host the first, and DVC waits on one"
        )
    parsed.master_port = parsed.master_port or PORT
    return parsed


# --- start ----------------------------------------------------------------------------------------


def run(module: str, hosts: Hosts) -> int:
    """Run ``python -m module`` as the processes of this host; returns the code of the stage.

    Raises:
        UserError: where the hosts do not meet.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args

    share = max(1, (threads.given() or 1) // hosts.processes)
    os.environ |= dict.fromkeys(threads.NAMES, str(share)) | {memory.LAUNCHER: str(os.getpid())}
    config, _, _ = config_from_args(hosts.options)
    patience = config.rdzv_configs.setdefault("timeout", PATIENCE)
    config.shutdown_timeout = int(workers.GRACE)
    others = f"{hosts.count - 1} other host(s)"
    if hosts.number == 0:
        log.info("waits at %s for %s, %s s at most", hosts.address, others, patience)
    else:
        log.info("waits for the training of %s, %s s at most", hosts.address, patience)
    # The rendezvous waits in C++, where Python hears no signal. The engine handles them afterwards.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    logging.disable()  # what fails is told here, in a sentence
    with tempfile.TemporaryDirectory() as folder:
        apart = {local: Std.ERR for local in range(1, hosts.processes)}
        config.logs_specs = DefaultLogsSpecs(log_dir=folder, redirects=apart)
        try:
            elastic_launch(config, sys.executable)("-m", module)
        except ChildFailedError as error:
            return _explained(error.failures, Path(folder))
        except SignalException as error:
            return 128 + error.sigval
        except torch.distributed.DistError as error:
            why = reason(error).partition(" (errno")[0]
            where = f"{others} did not come to" if hosts.number == 0 else "no training began at"
            raise UserError(f"{where} {hosts.address} within {patience} seconds ({why})") from None
    return 0


def _explained(failures: "Mapping[int, ProcessFailure]", folder: Path) -> int:
    """Show the error of the process that failed by itself; returns its code.

    The error of the first process of a host is on the screen already.
    """
    # Once a process has failed, the engine ends the others of the host by SIGTERM.
    effects = (workers.PEER_LOST, -signal.SIGTERM)
    own = {rank: one for rank, one in failures.items() if one.exitcode not in effects}
    if not own and any(one.exitcode == workers.PEER_LOST for one in failures.values()):
        return workers.PEER_LOST
    own = own or dict(failures)
    rank, failure = min(own.items())
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        print(f"error: process {rank} was ended by {name}", file=sys.stderr)
        return 128 - failure.exitcode
    if failure.local_rank:
        for path in folder.glob(f"*/attempt_*/{failure.local_rank}/stderr.log"):
            sys.stderr.write(path.read_text(errors="replace"))
    return failure.exitcode
