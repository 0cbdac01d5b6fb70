"""What the environment may say to the training: all that a launcher sets, and nothing that
params.yaml says."""

import re
from pathlib import Path

import accelerate
import pytest
import torch

from prosmin.common.errors import UserError
from stages import pretrain
from stages.common import launcher

WHOLE = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", *launcher.MPI)) or name in WHOLE:
            monkeypatch.delenv(name)


def given(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "launched"),
    [
        ({}, False),
        (WHOLE, True),
        (
            {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1"},
            False,
        ),  # of a cluster's login shell; nobody reads it
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, False),
        (WHOLE | {"OMPI_COMM_WORLD_SIZE": "4"}, True),
    ],
)
def test_a_whole_set_of_a_launchers_variables_or_none(monkeypatch, variables, launched):
    import os

    given(monkeypatch, **variables)
    assert launcher.launched() == launched
    assert not any(
        name.startswith(launcher.MPI) for name in os.environ
    )  # Accelerate would believe them before others


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"WORLD_SIZE": "2"},
            "the environment has WORLD_SIZE=2 but not RANK, LOCAL_RANK, "
            "MASTER_ADDR, MASTER_PORT; a launch",
        ),
        (
            {"RANK": "0"},
            "the environment has RANK=0 but not LOCAL_RANK, WORLD_SIZE, "
            "MASTER_ADDR, MASTER_PORT; a launcher",
        ),
        (
            {"LOCAL_RANK": "0", "MASTER_PORT": "29500"},
            "the environment has LOCAL_RANK=0 but not RANK, WORLD_SIZE, MASTER_ADDR",
        ),
        (
            WHOLE | {"MASTER_ADDR": ""},
            "the environment has RANK=1, LOCAL_RANK=1, WORLD_SIZE=2 but not MASTER_ADDR; a launch",
        ),
        (
            WHOLE | {"WORLD_SIZE": "two"},
            "WORLD_SIZE is 'two'; it must be a number of processes, at least 1, as a launcher",
        ),
        (WHOLE | {"WORLD_SIZE": "9" * 5000}, f"WORLD_SIZE is '{'9' * 76}...; it must be a"),
        (
            WHOLE | {"RANK": "2"},
            "RANK is '2'; it must be a whole number from 0 to below WORLD_SIZE, 2, "
            "as a launcher sets it",
        ),
        (
            WHOLE | {"LOCAL_RANK": "-1"},
            "LOCAL_RANK is '-1'; it must be a whole number from 0 to below WORLD_SIZE, 2, as a",
        ),
        (
            WHOLE | {"MASTER_PORT": "99999"},
            "MASTER_PORT is '99999'; it must be a port, 1 to 65535, as a launcher sets it",
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "2"},
            "OMPI_COMM_WORLD_SIZE is '2': MPI has started this process as one of several, or has",
        ),
        (
            {"PMI_SIZE": "x"},
            "PMI_SIZE is 'x': MPI has started this process as one of several, "
            "or has left that behind; st",
        ),
    ],
)
def test_half_a_set_is_refused_in_a_sentence_before_anything_runs(
    monkeypatch, params, variables, said
):
    given(monkeypatch, **variables)
    with pytest.raises(UserError) as error:
        pretrain.main(params)
    assert (
        str(error.value).startswith(said)
        and "unset" in str(error.value)
        and "\n" not in str(error.value)
    )


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "pretrain.accumulate says that here"),
        ("ACCELERATE_DYNAMO_BACKEND", "inductor", "pretrain.compile says that here"),
        ("ACCELERATE_DYNAMO_BACKEND", "nonsense", "pretrain.compile says that here"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "pretrain.precision says that here"),
        ("ACCELERATE_TORCH_DEVICE", "cuda:1", "CUDA_VISIBLE_DEVICES says that here"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "training here knows no such mode"),
        ("ACCELERATE_USE_FSDP", "1", "training here knows no such mode"),
        ("ACCELERATE_USE_MEGATRON_LM", "True", "training here knows no such mode"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "training here knows no such mode"),
        ("ACCELERATE_USE_CPU", "perhaps", "it must be true or false"),
        ("ACCELERATE_DEBUG_MODE", "2", "it must be true or false"),
    ],
)
def test_what_would_train_otherwise_is_refused(monkeypatch, params, name, value, why):
    given(monkeypatch, **{name: value})
    with pytest.raises(UserError) as error:
        pretrain.main(params)
    assert str(error.value) == (
        f"the environment has {name}={value!r}, which Accelerate would follow; {why}: unset {name}"
    )


def test_what_accelerate_launch_sets_by_itself_is_taken(monkeypatch):
    given(
        monkeypatch,
        ACCELERATE_MIXED_PRECISION="no",
        ACCELERATE_DYNAMO_BACKEND="NO",
        ACCELERATE_DYNAMO_MODE="default",
        ACCELERATE_DYNAMO_USE_FULLGRAPH="False",
        ACCELERATE_USE_CPU="False",
        ACCELERATE_GRADIENT_ACCUMULATION_STEPS="1",
        ACCELERATE_CPU_AFFINITY="1",
        ACCELERATE_USE_FSDP="",
    )
    launcher.check_accelerate("fp32")
    given(monkeypatch, ACCELERATE_MIXED_PRECISION="bf16")
    launcher.check_accelerate("bf16")
    accelerate.Accelerator(cpu=True, mixed_precision="no")


# Read only in a mode that is refused or on hardware that is not supported, or by functions that are
# not called here.
ELSEWHERE = (
    "DYNAMO_|DEEPSPEED_|FP8_|CONFIG_DS_FIELDS|GRADIENT_CLIPPING|SAGEMAKER_|ALLOW_CP_STANDALONE|BYPASS_DEVICE_MAP|"
    "DOWNCAST_BF16|INIT_INCLUDE_BUFFERS|DEBUG_RDV_FILE"
)
SILENT = "LOG_LEVEL|ENABLE_RICH"


def test_each_variable_that_accelerate_reads_is_known():
    folder, names = Path(accelerate.__file__).parent, set()
    for path in (*folder.glob("*.py"), *folder.glob("utils/*.py")):
        names |= set(re.findall(r"\"(ACCELERATE_[A-Z0-9_]+)\"", path.read_text()))
    known = {*launcher.SETTLED, *launcher.FREE, "ACCELERATE_MIXED_PRECISION"}
    other = {name for name in names - known if not name.startswith(launcher.SWITCH)}
    assert {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_USE_FSDP"} <= names
    assert not {name for name in other if not re.match(rf"ACCELERATE_({ELSEWHERE}|{SILENT})", name)}


@pytest.mark.parametrize(
    ("precision", "device", "machine", "has", "warns"),
    [
        ("bf16", "cpu", "x86_64", "AVX2", True),
        ("bf16", "cpu", "AMD64", "DEFAULT", True),
        ("bf16", "cpu", "x86_64", "AVX512", False),
        ("bf16", "cpu", "aarch64", "DEFAULT", False),
        ("bf16", "cuda", "x86_64", "AVX2", False),
        ("fp32", "cpu", "x86_64", "AVX2", False),
    ],
)
def test_bf16_is_advised_against_where_the_processor_lacks_it(
    caplog, monkeypatch, precision, device, machine, has, warns
):
    monkeypatch.setattr(launcher.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: has)
    launcher.advise(precision, device)
    assert ("pretrain.precision is bf16" in caplog.text) == warns
