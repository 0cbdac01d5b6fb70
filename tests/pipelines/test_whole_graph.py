"""The real graph on a folder of photographs, by DVC, at tiny size in clones of this checkout.

Longer than 300 lines, because its fixture runs the whole graph, which takes a minute.
"""

import contextlib
import filecmp
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import prosmin
from benchmarks.trust.faults import __main__ as faults
from benchmarks.trust.faults import project
from prosmin.common.files import read_arrays
from prosmin.data.dataset import load_split
from prosmin.evaluation.linear_probe import Probe
from prosmin.metrics import classification
from tests.pipelines.clones import ROOT, clone, command, commit, edit, on_photos, photographs, ran
from tests.pipelines.projects import until

UNCERTAINTY = ("uncertainty/photos", "uncertainty/digits")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "my photos"
    photographs(folder, 40)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, photos) -> Path:
    """A clone, at a path with a space, whose graph has run on a user's images, by params alone."""
    folder = clone(tmp_path_factory.mktemp("a clone"), on_photos(photos))
    output = command(folder, "-m", "dvc", "repro")
    assert {
        "fetch@photos",
        "pretrain",
        "embed@digits",
        "linear",
        "finetune@digits",
        "ood@digits",
        "report",
    } <= ran(output)
    commit(folder)
    return folder


def test_every_stage_leaves_what_the_graph_declares(finished):
    output = command(finished, "-m", "dvc", "status")
    assert "up to date" in output
    assert (finished / "results/report/index.html").stat().st_size > 10_000
    for name in (
        "linear",
        "knn",
        "lowshot",
        "calibrate",
        "audit/photos",
        "corrupt",
        "ood/digits",
        "transfer/digits",
        *UNCERTAINTY,
    ):
        metrics = json.loads((finished / f"metrics/{name}.json").read_text())
        assert {"trained", "random"} <= set(metrics), name
    assert json.loads((finished / "metrics/linear.json").read_text())["trained"]["n"] == 16
    assert "photos" in (finished / "results/report/index.html").read_text()


def test_the_export_predicts_the_test_split_as_the_stages_did(finished):
    """The same classes, probabilities to 1e-5 and OOD scores to 1e-5."""
    model = prosmin.load(finished / "results/export", "cpu")
    settings = model.facts.model
    split = load_split(finished / "data/photos", "test", settings.image_size, settings.channels)
    found, labels = model.predict(split.images), split.labels.numpy()
    embedded = read_arrays(finished / "results/embed/photos/trained.safetensors")
    probe = Probe.load(finished / "results/linear/trained.safetensors")
    logits = probe.logits(embedded["test.features"])
    expected = classification.softmax(logits / probe.temperature)
    np.testing.assert_allclose(found.probabilities, expected, rtol=0, atol=1e-5)
    assert found.labels == [split.classes[place] for place in logits.argmax(axis=1)]
    linear = json.loads((finished / "metrics/linear.json").read_text())["trained"]
    covered = np.take_along_axis(found.sets, labels[:, None], axis=1)
    assert covered.mean() == pytest.approx(linear["conformal_coverage"], abs=1e-5)
    assert found.sets.sum(axis=1).mean() == pytest.approx(linear["conformal_size"], abs=1e-5)
    scores = read_arrays(finished / "results/ood/digits/scores.safetensors")
    for detector, values in found.scores.items():
        theirs = scores[f"trained.{detector}.id"]
        np.testing.assert_allclose(values, theirs, rtol=1e-5, atol=1e-5)
    assert set(found.scores) == {"knn", "mahalanobis", "combined"}


def test_a_folder_of_photographs_is_predicted_by_the_export(finished, photos, tmp_path):
    out, page = tmp_path / "out.parquet", tmp_path / "page.html"
    arguments = ("--model", "results/export", "--out", str(out), "--report", str(page))
    command(finished, "-m", "prosmin", "predict", str(photos), *arguments)
    rows = pyarrow.parquet.read_table(out).to_pylist()
    assert {row["file"] for row in rows} == {
        str(path.relative_to(photos)) for path in photos.rglob("*.*") if path.is_file()
    }
    assert {row["error"] for row in rows} == {None} and page.stat().st_size > 10_000
    # Most of the files are training images, each of which is its own nearest image.
    same = [row for row in rows if row["nearest_distance"][0] < 1e-3]
    assert len(same) > len(rows) / 2


def test_nothing_to_do_runs_nothing(finished):
    assert not ran(command(finished, "-m", "dvc", "repro"))


def test_git_sees_only_metrics_plots_and_the_lock(finished):
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=finished, capture_output=True, text=True, check=True
    ).stdout.split()
    assert (
        "dvc.lock" in tracked
        and "summary.json" in tracked
        and "metrics/linear.json" in tracked
        and "plots/pretrain/loss.csv" in tracked
    )
    assert not [name for name in tracked if name.startswith(("results/", "data/photos"))]


def test_an_ood_setting_touches_ood_and_report_and_its_old_value_runs_nothing(finished):
    before = (finished / "params.yaml").read_text()
    try:
        edit(finished, {"ood.k": 3})
        again = ran(command(finished, "-m", "dvc", "repro"))
        assert again == {"detectors", "ood@digits", "export", "report"}
        shown = json.loads(command(finished, "-m", "dvc", "metrics", "diff", "--json"))
        assert "far_knn" in shown["summary.json"]
        compared(
            command(finished, "-m", "pipelines.compare", "main", "workspace", "--bootstrap", "100"),
            finished,
        )
    finally:
        (finished / "params.yaml").write_text(before)
    assert not ran(command(finished, "-m", "dvc", "repro"))
    assert "up to date" in command(finished, "-m", "dvc", "status")


def test_another_ood_set_and_transfer_target_touch_their_own_leaves_and_what_gathers(finished):
    before = (finished / "params.yaml").read_text()
    try:
        edit(
            finished,
            {
                "fetch.more": {"source": "builtin", "name": "digits"},
                "ood.sets.more": "near",
                "transfer.targets": ["digits", "more"],
            },
        )
        touched = json.loads(command(finished, "-m", "dvc", "status", "--json"))
    finally:
        (finished / "params.yaml").write_text(before)
    own = {f"{stage}@more" for stage in ("fetch", "embed", "prediction", "ood", "transfer")}
    assert set(touched) == own | {"export", "report"}


def compared(said: str, folder: Path) -> None:
    """With another ood.k, the scores with the k-NN distance differ from the last commit."""
    blocks = {}
    for line in said.splitlines():
        if not line.startswith(" "):
            label = line.partition(" (higher")[0].partition(" (lower")[0]
        elif line.strip().startswith("workspace"):
            blocks[label] = line.split()
    changed = [
        blocks.pop(f"OOD, digits (far), {detector}: AUROC") for detector in ("knn", "combined")
    ]
    assert any(float(words[5]) != 0 for words in changed)
    assert {tuple(words[5:9]) for words in blocks.values()} == {
        ("+0.0000", "+0.0000", "-", "+0.0000")
    }
    assert {"linear probe: accuracy", "k-NN: accuracy", "OOD, digits (far), msp: AUROC"} <= set(
        blocks
    )
    for name, value in (("main", "metrics/linear.json"), ("workspace", "metrics/knn.json")):
        accuracy = json.loads((folder / value).read_text())["trained"]["accuracy"]
        assert f"{name.ljust(9)}  {accuracy:.4f}" in said
    told = len(blocks) + len(changed)
    assert said.count(f"Each of the {told} differences is a test at 5 % by itself") == 1
    html = (folder / "results/compare/index.html").read_text()
    assert (
        "main, workspace" in html
        and html.count("<svg") >= 4
        and "http" not in html.replace("http-equiv", "")
    )


def listening(parent):
    """(process, address) for each socket on which ``parent`` or a child of it takes calls."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address = bytes.fromhex(fields[1].partition(":")[0])
            if (
                fields[3] == "0A"
            ):  # listens; the kernel writes words of four bytes in the order of this machine
                words = [address[place : place + 4][::-1] for place in range(0, len(address), 4)]
                sockets[f"socket:[{fields[9]}]"] = str(ipaddress.ip_address(b"".join(words)))
    hosts = set()
    for process in (
        parent,
        *map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()),
    ):
        with contextlib.suppress(
            FileNotFoundError
        ):  # it has ended, or closed what was open a moment ago
            for entry in Path(f"/proc/{process}/fd").iterdir():
                if (address := sockets.get(os.readlink(entry))) is not None:
                    hosts.add((process, address))
    return hosts


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_processes_train_one_model(finished, tmp_path):
    shutil.copytree(finished / "data", tmp_path / "data")
    for name in ("prosmin", "stages"):
        shutil.copytree(finished / name, tmp_path / name)
    shutil.copy(finished / "params.yaml", tmp_path)
    output, hosts = [], set()
    with subprocess.Popen(
        [sys.executable, "-m", "stages.pretrain"],
        cwd=tmp_path,
        env={**os.environ, "PROSMIN_PROCESSES": "2", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            output.append(line)
            hosts |= listening(process.pid)
    assert process.returncode == 0 and any("2 process(es)" in line for line in output), "".join(
        output
    )
    assert len({holder for holder, _ in hosts}) == 3  # the two, and the one where they meet
    assert {address for _, address in hosts} == {"127.0.0.1"}
    two, one = (
        json.loads((folder / "metrics/pretrain.json").read_text())
        for folder in (tmp_path, finished)
    )
    assert (two["steps"], two["images"]) == (one["steps"], one["images"])
    # Each process draws views of its own, so the runs agree only roughly.
    assert two["loss"] == pytest.approx(one["loss"], rel=0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_death_of_one_of_two_processes_is_one_sentence(finished, tmp_path):
    for name in ("data", "prosmin", "stages"):
        shutil.copytree(finished / name, tmp_path / name)
    shutil.copy(finished / "params.yaml", tmp_path)
    edit(tmp_path, {"pretrain.epochs": 100_000})
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.pretrain"],
        cwd=tmp_path,
        env={**os.environ, "PROSMIN_PROCESSES": "2", "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "process(es)" in line:
            break
    time.sleep(1)
    workers = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    second = next(
        worker
        for worker in workers
        if b"\0RANK=1\0" in Path(f"/proc/{worker}/environ").read_bytes()
    )
    os.kill(second, signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "error: process 1 was ended by SIGTERM"
    assert process.returncode == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_pretraining_leaves_the_old_model_whole(finished, tmp_path, number):
    for name in ("data", "prosmin", "stages", "results/pretrain", "metrics"):
        shutil.copytree(finished / name, tmp_path / name)
    shutil.copy(finished / "params.yaml", tmp_path)
    edit(tmp_path, {"pretrain.epochs": 100_000})
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.pretrain"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = tmp_path / "metrics/pretrain.json"
    before = metrics.read_bytes()
    until(lambda: metrics.read_bytes() != before, 100)  # it trains, and tells how far it is
    os.killpg(process.pid, number)
    rest = process.communicate(timeout=60)[1]
    # In code compiled from a string, Python ends by the signal itself; a shell calls that 130 too.
    assert process.returncode in ({130, -number} if number == signal.SIGINT else {-number})
    assert "Traceback" not in rest
    left = filecmp.dircmp(finished / "results/pretrain", tmp_path / "results/pretrain")
    assert not (left.left_only or left.right_only or left.diff_files)
    assert {"epochs", "steps"} <= json.loads(metrics.read_text()).keys()
    # Of a file that it wrote when it was killed, the next run removes the half.
    half = tmp_path if number == signal.SIGINT else tmp_path / "results"
    assert not list(half.rglob(".*.part"))


@pytest.mark.parametrize("module", ["linear", "embed"])
def test_a_stage_without_its_inputs_says_which_stage_makes_them(tmp_path, module):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    arguments = ["digits"] if module == "embed" else []
    output = command(
        tmp_path,
        "-m",
        f"stages.{module}",
        *arguments,
        environment={"PYTHONPATH": str(ROOT)},
        expect=2,
    )
    assert output.startswith("error: ") and len(output.splitlines()) == 1
    assert "stages." in output or "`dvc repro " in output


@pytest.mark.parametrize("kind", ["repro", "lock", "made", "leftovers"])
def test_a_fault_is_put_right_by_the_next_run(finished, tmp_path, kind):
    """A fault of each kind without a server; ``benchmarks.trust.faults`` makes hundreds."""
    original = project.Place(tmp_path / "original")
    original.root.mkdir()
    original.folder.symlink_to(finished)
    original.expected = original.left()
    entry = faults.one(0, kind, 0, original, tmp_path)
    assert entry["held"], f"{entry['why']} ({entry['fault']}): {entry.get('said')}"
