"""Params files as a whole: several faults, keys that dvc.yaml asks for, and what is allowed."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from prosmin.common.errors import UserError
from stages.params.load import load
from tests.stages.params.edits import ABSENT, GIVEN, HUB, ROOT, edited


def test_all_faults_are_reported_at_once(complaints):
    lines = complaints(
        edited(
            {
                "dataset": "digit",
                "liner": {},
                "linear": ABSENT,
                "pretrain.lr": -1,
                "ood.sets.svhn": "far",
                "corrupt.severities": [0, 6],
            }
        )
    )
    keys = [line.removeprefix("params.yaml: ").split(" is ")[0] for line in lines]
    assert sorted(keys) == sorted(
        [
            "dataset",
            "liner",
            "linear",
            "pretrain.lr",
            "ood.sets.svhn",
            "corrupt.severities.0",
            "corrupt.severities.1",
        ]
    )


def test_of_very_many_faults_the_first_are_told(complaints):
    lines = complaints(GIVEN + "".join(f"k{place}: 1\n" for place in range(400)))
    assert (
        len(lines) == 21 and lines[-1] == "params.yaml: more is wrong than these; mend them first"
    )
    lines = complaints(edited({"transfer.targets": [f"nowhere{place}" for place in range(400)]}))
    assert len(lines) == 21 and all(len(line) < 400 for line in lines)
    datasets = {f"d{place}": {"source": "builtin", "name": "digits"} for place in range(1001)}
    others = {"ood.sets": {"d2": "far"}, "transfer.targets": [], "finetune.datasets": []}
    others |= {"uncertainty.datasets": [], "audit.datasets": ["d1"]}
    (line,) = complaints(edited({"fetch": datasets, "dataset": "d1", **others}))
    assert line.startswith("params.yaml: fetch is {'d0': ") and line.endswith(
        "it must be given at most 1000 entries"
    )


def test_a_number_of_thousands_of_digits_is_one_line(complaints):
    (line,) = complaints(GIVEN.replace("seed: 0 ", f"seed: 0x{'f' * 50_000} "))
    assert (
        line == "params.yaml: seed is a number of about 60207 digits; it must be below 2147483648"
    )


# --- keys that dvc.yaml asks for ------------------------------------------------------------------


def named_by_dvc() -> list[str]:
    """Dotted keys that DVC records for a stage, and those in a template."""
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        keys = [
            key
            for stage in repo.index.stages
            for dependency in stage.deps
            if isinstance(dependency, ParamsDependency)
            for key in dependency.params
        ]
    keys += re.findall(r"\$\{((?!item|key)[a-z._]+)\}", (ROOT / "dvc.yaml").read_text())
    return sorted(
        key for key in set(keys) if not key.startswith(("fetch.", "ood.sets."))
    )  # those of loops


def test_a_key_that_dvc_asks_for_may_not_be_left_out_and_is_named_with_its_default(tmp_path):
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    keys = named_by_dvc()
    assert {"ood.temperature", "shift.sets", "embed", "finetune.datasets", "seed"} < set(
        keys
    ) and len(keys) > 25
    for key in keys:
        (tmp_path / "params.yaml").write_text(edited({key: ABSENT}))
        with pytest.raises(UserError) as error:
            load(tmp_path / "params.yaml")
        (line,) = str(error.value).splitlines()
        assert re.search(rf"params.yaml: {re.escape(key)} (\(default: .*\) )?is missing; ", line), (
            line
        )


def test_all_keys_that_an_older_file_lacks_are_one_line_with_their_defaults(tmp_path):
    older = edited({"ood.temperature": ABSENT, "ood.k": ABSENT, "shift": ABSENT, "embed": ABSENT})
    (tmp_path / "params.yaml").write_text(older)
    load(tmp_path / "params.yaml")  # such as that of an older commit, which is compared and not run
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    with pytest.raises(UserError) as error:
        load(tmp_path / "params.yaml")
    assert str(error.value) == (
        f"{tmp_path}/params.yaml: embed (default: {{batch_size: 512}}), ood.k (default: 10), "
        "ood.temperature (default: 1.0), shift (default: {sets: [], bootstrap: 1000}) are missing; "
        "dvc.yaml asks for them, so write them down"
    )


def test_the_default_that_is_told_is_the_value_that_is_taken(tmp_path):
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    for key in ("ood.shrinkage", "finetune", "lowshot"):
        (tmp_path / "params.yaml").write_text(edited({key: ABSENT}))
        with pytest.raises(UserError) as error:
            load(tmp_path / "params.yaml")
        told = yaml.safe_load(re.search(r"\(default: (.*)\) is missing", str(error.value)).group(1))
        (tmp_path / "params.yaml").write_text(edited({key: told}))
        written = load(tmp_path / "params.yaml")
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / "elsewhere/params.yaml").write_text(edited({key: ABSENT}))
        assert written == load(tmp_path / "elsewhere/params.yaml")


def test_a_section_number_as_a_key_is_refused(complaints):
    (line,) = complaints(f"{GIVEN}\n3: 4\n")
    assert line == "params.yaml: 3 is 3; it must be text"


def test_a_long_value_is_cut(complaints):
    (line,) = complaints(edited({"dataset": list(range(1000))}))
    assert line.startswith("params.yaml: dataset is [0, 1, 2, ") and line.endswith(
        "...; it must be text"
    )


def test_the_repository_s_own_file_is_valid_and_complete():
    params = load(ROOT / "params.yaml")
    assert params.dataset in params.fetch
    assert params.pretrain.objective.lambda_ == 1.0


@pytest.mark.parametrize(
    ("written", "read"), [("3e-4", 3e-4), ("3.0e-4", 3e-4), ("1", 1.0), ("'0.002'", 0.002)]
)
def test_numbers_are_numbers_however_yaml_reads_them(tmp_path, written, read):
    (tmp_path / "params.yaml").write_text(GIVEN.replace("  lr: 0.002 ", f"  lr: {written} "))
    assert load(tmp_path / "params.yaml").pretrain.lr == read


@pytest.mark.parametrize(
    "edits",
    [
        {"pretrain.clip_norm": None},
        {"pretrain.weight_decay_end": 0.65},
        {"pretrain.objective.lambda": 1.4},
        {"pretrain.objective.rule": "energy", "pretrain.objective.estimator": "monte_carlo"},
        {"pretrain.objective": {"name": "byol"}},
        {"pretrain.objective": {"name": "dino", "prototypes": 16}},
        {"pretrain.objective": {"name": "prosmin", "regression": 0, "identification": 1}},
        {"pretrain.objective.identification": 1.0, "pretrain.objective.heads": "stopped"},
        {"pretrain.objective": ABSENT},
        {"embed": ABSENT, "lowshot": ABSENT, "report": ABSENT, "pretrain.views": ABSENT},
        {"fetch.own": HUB, "dataset": "own"},
        {"fetch.own": {"source": "parquet", "files": {"train": "birds/*.parquet"}, "label": None}},
        {"lowshot.percent": []},
        {"transfer.targets": []},
    ],
)
def test_what_is_allowed_is_accepted(tmp_path, edits):
    (tmp_path / "params.yaml").write_text(edited(edits))
    load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "content",
    [
        edited({"seed": "many", "fetch.digits.source": "disk"}).encode(),
        b"seed: [1\n",
        b"\xff\xfe\0",
    ],
)
def test_a_real_process_leaves_nothing_behind(tmp_path, content):
    (tmp_path / "params.yaml").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "stages.fetch", "digits"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert all(line.startswith("error: params.yaml") for line in done.stderr.splitlines())
    assert [file.name for file in tmp_path.iterdir()] == ["params.yaml"]
