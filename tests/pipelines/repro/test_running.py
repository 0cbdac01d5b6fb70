"""``python -m pipelines.repro`` on a real, tiny DVC project whose one stage each test chooses."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.conftest import until

ROOT = Path(__file__).parents[3]
METRICS = (
    '{"trained": {"accuracy": 0.975, "accuracy_low": 0.96, "accuracy_high": 0.99}, '
    '"random": {"accuracy": 0.875}}'
)
WORKS = f"""
from pathlib import Path
Path("metrics").mkdir(exist_ok=True)
Path("metrics/linear.json").write_text('{METRICS}')
Path("results/report").mkdir(parents=True)
Path("results/report/index.html").write_text("<html>")
"""
FAILS = """
import sys
sys.exit("the disk on which it stood has gone")
"""
WAITS = """
import time
from pathlib import Path
Path("half-written").write_text("")
try:
    print("waiting", flush=True)
    time.sleep(60)
finally:
    Path("half-written").unlink()
"""


@pytest.fixture
def project(tmp_path):
    """A git repository, its path with a blank in it, set up for DVC as this one is."""
    folder = tmp_path / "a project"
    shutil.copytree(
        ROOT / ".dvc",
        folder / ".dvc",
        ignore=shutil.ignore_patterns("cache", "tmp", "config.local"),
    )
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (folder / "dvc.yaml").write_text(
        "stages:\n"
        "  one: {cmd: python one.py, deps: [one.py], outs: [results/report]}\n"
        "  two: {cmd: python two.py, deps: [two.py]}\n"
    )
    (folder / "one.py").write_text(WORKS)
    (folder / "two.py").write_text("print('two ran')\n")
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    # The PATH of the system alone: stages must find the right `python` though nothing is activated.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.repro", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], list[str]]:
    out, err = process.communicate()
    return process.returncode, out.splitlines(), err.splitlines()


def test_it_runs_the_stages_and_ends_with_table_and_report(project):
    code, out, err = finish(start(project))
    assert code == 0, err
    assert "two ran" in out
    assert out[-5:] == [
        "",
        "                        trained  95 % interval  untrained",
        "linear probe: accuracy    0.975  0.960 - 0.990      0.875",
        "",
        "Report: results/report/index.html",
    ]

    code, out, _ = finish(start(project))
    assert code == 0
    assert "two ran" not in out and "Data and pipelines are up to date." in out
    assert out[-1] == "Report: results/report/index.html"


LOOP = """
stages:
  fetch: {foreach: "${fetch}", do: {cmd: "python make.py data/${key}", outs: ["data/${key}"]}}
  linear: {cmd: python make.py results/linear, deps: ["data/${dataset}"], outs: [results/linear]}
  report: {cmd: python make.py results/report, deps: [data, results/linear], outs: [results/report]}
"""
MAKES = """
import sys
from pathlib import Path
Path(sys.argv[1]).parent.mkdir(exist_ok=True)
Path(sys.argv[1]).write_text(" ".join(sorted(str(path) for path in Path("data").iterdir())))
"""


def test_a_dataset_that_no_stage_uses_is_named_and_not_made(project):
    """DVC alone would make it, for the stage that depends on all of data/."""
    (project / "dvc.yaml").write_text(LOOP)
    (project / "make.py").write_text(MAKES)
    code, out, err = finish(start(project))
    assert code == 0, err
    assert out[0] == "3 of 3 stages will run: none of them has run here before"
    assert out[1].startswith("fetch.patches is used by no stage and left out; `dvc repro ")
    assert not (project / "data/patches").exists()
    assert (project / "results/report").read_text().split()[-1] == "data/digits"


def test_its_arguments_go_to_dvc(project):
    code, out, _ = finish(start(project, "two"))
    assert code == 0
    assert "two ran" in out
    assert not (project / "results").exists() and "Report" not in out[-1]


def test_a_failed_stage_gives_dvc_s_code_and_dvc_s_message_last(project):
    (project / "one.py").write_text(FAILS)
    (project / "metrics").mkdir()
    (project / "metrics" / "linear.json").write_text(METRICS)
    code, out, err = finish(start(project, "one"))
    assert code == 255
    assert "the disk on which it stood has gone" in err
    assert "failed to run: python one.py, exited with 1" in err[-1]
    assert not any("95 % interval" in line for line in out)


def test_a_wrong_params_file_stops_it_before_dvc(project):
    (project / "params.yaml").write_text(
        (ROOT / "params.yaml").read_text().replace("epochs: 80", "epochs: none")
    )
    code, out, err = finish(start(project))
    assert (code, out) == (2, [])
    assert err == ["error: params.yaml: pretrain.epochs is 'none'; it must be a whole number"]
    assert not (project / "dvc.lock").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_being_stopped_reaches_the_stage_which_cleans_up(project, number, code):
    (project / "one.py").write_text(WAITS)
    process = start(project, "one")
    assert any(line == "waiting\n" for line in process.stdout)
    process.send_signal(number)
    assert finish(process)[0] == code
    assert not (project / "half-written").exists()
    assert not (project / "dvc.lock").exists()


MEASURES = """
import sys
from pathlib import Path
Path("metrics").mkdir(exist_ok=True)
Path(f"metrics/{sys.argv[1]}.json").write_text('{"trained": {"accuracy": 0.5}}')
"""
TWO = """
stages:
  linear:
    cmd: python measures.py linear
    params: [dataset, linear]
    deps: [measures.py]
    metrics: [metrics/linear.json: {cache: false}]
  knn:
    cmd: python measures.py knn
    params: [dataset, knn]
    deps: [measures.py]
    metrics: [metrics/knn.json: {cache: false}]
  fetch:
    foreach: "${fetch}"
    do: {cmd: "echo ${key} > ${key}", params: ["fetch.${key}"], outs: ["${key}"]}
  report: {cmd: cp -r metrics results, deps: [metrics], outs: [results/report]}
"""


def test_the_table_has_numbers_of_these_settings_alone(project):
    (project / "measures.py").write_text(MEASURES)
    (project / "dvc.yaml").write_text(
        TWO.replace(
            "cp -r metrics results", "mkdir -p results/report && cp metrics/* results/report"
        )
    )
    (project / "one.py").unlink()

    def shown(*arguments):
        code, out, err = finish(start(project, *arguments))
        assert code == 0, err
        heads = ("linear probe", "k-NN", "On digits", "On mine", "Left out")
        return [head for line in out for head in heads if line.startswith(head)], out[-1]

    everything = ["On digits", "linear probe", "k-NN"]
    assert shown()[0] == everything
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("bootstrap: 1000", "bootstrap: 500"))
    assert shown("--dry")[0] == ["Left out"]
    heads, last = shown("linear")
    assert heads == ["On digits", "linear probe", "Left out"]
    assert (
        last
        == "Left out, being of other settings, code or data: knn, report; `make repro` makes it all"
    )
    mine = text.replace("dataset: digits ", "dataset: mine ")
    mine = mine.replace(
        "\n  digits:  ", "\n  mine: {source: builtin, name: patches}\n  digits:  ", 1
    )
    (project / "params.yaml").write_text(mine)
    assert shown("fetch@mine")[0] == ["Left out"]
    (project / "params.yaml").write_text(text)
    assert shown()[0] == everything


def test_a_file_that_rotted_in_the_cache_is_made_again(project):
    finish(start(project))
    page = next(
        path
        for path in (project / ".dvc/cache/files").rglob("*")
        if path.is_file() and path.read_bytes() == b"<html>"
    )
    page.chmod(0o644)
    page.write_bytes(b"<htmm>")
    page.chmod(0o444)
    shutil.rmtree(project / "results")
    code, out, err = finish(start(project))
    assert code == 0 and (project / "results/report/index.html").read_text() == "<html>", err


BIG = "  big: {cmd: head -c 3000000 /dev/zero > big, deps: [one.py], outs: [big]}\n"


def test_a_result_that_the_disk_does_not_take_is_a_sentence(project):
    """A file may grow to a megabyte, which is a full disk for whoever writes more."""
    (project / "dvc.yaml").write_text(f"stages:\n{BIG}")
    assert finish(start(project))[0] == 0
    (project / "big").unlink()
    small = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({2**20}, {2**20})); "
    code = f"{small}from pipelines.repro import *; run('repro', main)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode and f"error: {project} cannot be written to: File too" in done.stderr
    assert finish(start(project))[0] == 0
    assert (project / "big").stat().st_size == 3_000_000


WAITS_LONG = """
import os, time
open("pid", "w").write(str(os.getpid()))
time.sleep(100)
"""


def below(process: subprocess.Popen[str], folder: Path) -> dict[str, int]:
    """The process ids of a run: of its guard, of DVC and of the stage, once that runs."""
    stage = int(until(lambda: (folder / "pid").is_file() and (folder / "pid").read_text().strip()))
    line = [stage]
    while line[-1] != process.pid:
        line.append(int(Path(f"/proc/{line[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
    return {"stage": stage, "dvc": line[-3], "guard": line[-2], "run": line[-1]}


def nothing_left(folder: Path) -> bool:
    """Whether no process has this folder as its current one, apart from zombies."""
    processes = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "cwd").startswith(str(folder)):
                processes.append(entry.name)
    return not processes


def test_whatever_is_killed_nothing_is_left(project):
    """Each run but the first starts in the folder that a killed run has left."""
    (project / "one.py").write_text(WAITS_LONG)
    for victim, number, code in (
        ("run", signal.SIGKILL, -9),
        ("run", signal.SIGHUP, 129),
        ("guard", signal.SIGKILL, 137),
        ("dvc", signal.SIGTERM, 143),
        ("dvc", signal.SIGKILL, 137),
    ):
        (project / "pid").unlink(missing_ok=True)
        process = start(project, "one")
        os.kill(below(process, project)[victim], number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, (victim, number, errors)
        until(lambda: nothing_left(project), 30)
    (project / "one.py").write_text(WORKS)
    assert (
        finish(start(project, "one"))[0] == 0
    )  # it waits for what is still ending, and finds no lock


def test_nohup_lets_a_run_outlive_its_terminal(project):
    (project / "two.py").write_text(
        "import os, signal, sys; os.kill(int(os.environ['RUN']), signal.SIGHUP)\n"
    )
    code = (
        "import os; os.environ['RUN'] = str(os.getpid()); "
        "from pipelines.repro import *; run('repro', main)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert (
        subprocess.run(
            ["nohup", sys.executable, "-c", code], cwd=project, env=environment
        ).returncode
        == 0
    )


@pytest.mark.skipif(not shutil.which("make"), reason="no make on the path")
def test_a_killed_make_ends_what_it_has_started(project):
    lines = (ROOT / "Makefile").read_text().splitlines()
    kept = [
        line
        for line in lines
        if line.startswith(
            ("in_venv", "run_in_venv", "\t@$(run_in_venv) python -m pipelines.repro")
        )
    ]
    assert len(kept) == 3
    (project / "Makefile").write_text("\n".join([*kept[:2], "repro:", kept[2], ""]))
    (project / "one.py").write_text(WAITS_LONG)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    make = subprocess.Popen(
        ["make", "repro", "ARGS=one"], cwd=project, env=environment, stderr=subprocess.DEVNULL
    )
    until(lambda: (project / "pid").is_file() and (project / "pid").read_text().strip())
    make.kill()
    make.wait()
    until(lambda: nothing_left(project), 30)


TOLD_WHILE_IT_STARTS = """
import os, signal, subprocess, sys
init = subprocess.Popen.__init__
def started(self, *arguments, **options):
    init(self, *arguments, **options)
    os.kill(os.getpid(), signal.SIGTERM)
subprocess.Popen.__init__ = started
from pipelines.repro import main
from stages.common.command import run
sys.argv = ["repro", "one"]
run("repro", main)
"""


def test_a_signal_that_comes_while_dvc_is_started_is_not_lost(project):
    (project / "one.py").write_text(WAITS_LONG)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", TOLD_WHILE_IT_STARTS], cwd=project, env=environment, timeout=60
    )
    assert done.returncode == 143 and nothing_left(project)
