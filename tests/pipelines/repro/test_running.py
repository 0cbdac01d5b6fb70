"""``python -m pipelines.repro`` on a real, tiny DVC project whose one stage each test chooses."""

import os
import shutil
import subprocess
import sys

from tests.pipelines.projects import ROOT
from tests.pipelines.repro.started import METRICS, finish, start


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


FAILS = """
import sys
sys.exit("the disk on which it stood has gone")
"""


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
