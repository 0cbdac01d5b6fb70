"""PROSMIN_HOSTS: what it may name, and what is said where it names no hosts."""

import os
import re

import pytest
import yaml

from prosmin.common.errors import UserError
from stages.common import hosts

# As ``accelerate config`` writes it for two machines.
CONFIG = {
    "compute_environment": "LOCAL_MACHINE",
    "debug": False,
    "distributed_type": "MULTI_GPU",
    "downcast_bf16": "no",
    "enable_cpu_affinity": False,
    "gpu_ids": "all",
    "machine_rank": 1,
    "main_process_ip": "10.0.0.5",
    "main_process_port": 29501,
    "main_training_function": "main",
    "mixed_precision": "no",
    "num_machines": 2,
    "num_processes": 4,
    "rdzv_backend": "static",
    "same_network": True,
    "use_cpu": False,
}
OPTIONS = "--nnodes 2 --node-rank 1 --master-addr 10.0.0.5"
STEP = {
    "SLURM_JOB_ID": "41007",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_TASKS": "2",
}


@pytest.fixture
def named(monkeypatch):
    """What a value of PROSMIN_HOSTS names: count, number, address, processes."""

    def name(text):
        monkeypatch.setenv(hosts.VARIABLE, text)
        found = hosts.given()
        return found and (found.count, found.number, found.address, found.processes)

    return name


def config(folder, **changes):
    path = folder / "host1.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return str(path)


def test_a_file_of_accelerate_config_names_hosts(named, tmp_path):
    assert named(config(tmp_path)) == (2, 1, "10.0.0.5:29501", 2)
    without = config(tmp_path, main_process_port=None, machine_rank=0)
    assert named(without) == (2, 0, f"10.0.0.5:{hosts.PORT}", 2)


def test_options_of_torchrun_name_hosts(named):
    assert named(OPTIONS) == (2, 1, f"10.0.0.5:{hosts.PORT}", 1)
    given = "--nnodes=3 --node_rank=2 --master_addr=10.0.0.5 --master_port=9 --nproc_per_node=4"
    assert named(given) == (3, 2, "10.0.0.5:9", 4)


@pytest.mark.parametrize("text", ["", " ", "--nnodes 1"])
def test_one_host_is_no_several(named, text):
    assert named(text) is None


def test_one_machine_of_accelerate_is_no_several(named, tmp_path):
    assert named(config(tmp_path, num_machines=1, machine_rank=0, main_process_ip=None)) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "there/is/none.yaml",
            "'there/is/none.yaml'; it must be a file of `accelerate config`, op",
        ),
        ("--nnodes 2 --node-rank 'x", "No closing quotation"),
        ("--nnodes 2 --node-rank x", "argument --node-rank/--node_rank: invalid int value: 'x'"),
        ("--hosts 2", "ambiguous|unrecognized|invalid"),
        (f"{OPTIONS} --rdzv-backend c10d", "must number the hosts: --nnodes 2 --node-rank 0"),
        ("--nnodes 1:2 --node-rank 0", "must number the hosts"),
        (
            "--nnodes 2 --node-rank 2",
            "the number of this host is 2; with 2 hosts it must be 0 to 1",
        ),
    ],
)
def test_what_names_no_hosts_is_one_sentence(named, text, said):
    with pytest.raises(UserError, match=f"^{hosts.VARIABLE}") as error:
        named(text)
    assert re.search(said, str(error.value)) or said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"main_process_ip": None}, "main_process_ip is missing, the address of the first host"),
        ({"num_processes": 3}, "num_processes is 3; it counts the processes of all hosts, so it"),
        ({"machines": 2}, "is no file of `accelerate config`"),
        ({"machine_rank": 2}, "the number of this host is 2"),
    ],
)
def test_a_file_that_leaves_a_question_is_refused(named, tmp_path, changes, said):
    with pytest.raises(UserError) as error:
        named(config(tmp_path, **changes))
    assert said in str(error.value)


def test_the_nodes_of_a_slurm_step_are_hosts(named, tmp_path, monkeypatch):
    command = tmp_path / "scontrol"  # prints what Slurm's prints for this list
    command.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[1-2]" ] && printf "n1\\nn2\\n"\n')
    command.chmod(0o755)
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PROSMIN_PROCESSES", "3")
    assert named("slurm") == (2, 1, "n1:21007", 3)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(UserError, match="4 tasks on 2 nodes; start one per node"):
        named("slurm")
    monkeypatch.delenv("SLURM_NODEID")
    with pytest.raises(UserError, match="has no SLURM_NODEID: start it by srun"):
        named("slurm")
