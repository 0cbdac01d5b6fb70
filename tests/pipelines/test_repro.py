"""``python -m pipelines.repro`` on a real, tiny DVC project whose one stage each test chooses."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METRICS = '{"trained": {"accuracy": 0.975, "accuracy_low": 0.96, "accuracy_high": 0.99}, "random": {"accuracy": 0.875}}'
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
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
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
    # An empty PATH but for the system's: the stages must find the right `python` though nothing is activated.
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
        "                        trained  95 % interval  random init",
        "linear probe: accuracy    0.975  0.960 - 0.990        0.875",
        "",
        "Report: results/report/index.html",
    ]

    code, out, _ = finish(start(project))
    assert code == 0
    assert "two ran" not in out and "Data and pipelines are up to date." in out
    assert out[-1] == "Report: results/report/index.html"


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
    (project / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("epochs: 80", "epochs: none"))
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
