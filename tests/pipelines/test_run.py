"""How a command of the pipelines ends: its code, and its words on standard error."""

import os
import signal
import subprocess
import sys

import pytest

from pipelines.engine.execute import Result, against
from pipelines.flows.terminal import Terminal
from pipelines.graph.dag import Stage
from tests.pipelines.projects import ROOT


def ended(body: str, **options) -> subprocess.CompletedProcess[str]:
    """A command whose body is a line of Python."""
    code = f"""
import errno, sys
from pipelines.run import command
from prosmin.common.errors import UserError

def body():
    {body}

command(body)
"""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, **options)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return 3", 3, ""),
        ("raise UserError('epochs is 0')", 2, "error: epochs is 0\n"),
        (
            "raise OSError(errno.EROFS, 'Read-only file system', '.dvc/tmp/lock')",
            2,
            "error: the run cannot go on: Read-only file system (.dvc/tmp/lock); "
            "stages that were done are kept\n",
        ),
        ("raise KeyboardInterrupt", 130, "interrupted; stages that were done are kept\n"),
        ("sys.exit(143)", 143, "stopped; stages that were done are kept\n"),
    ],
)
def test_it_ends_with_a_code_and_a_sentence(body, code, said):
    done = ended(body, capture_output=True)
    assert (done.returncode, done.stderr, done.stdout) == (code, said, "")


def test_a_defect_keeps_its_traceback():
    done = ended("return 1 // 0", capture_output=True)
    assert done.returncode == 1 and "ZeroDivisionError: integer division" in done.stderr


@pytest.mark.parametrize("body", ["sys.stdout.write('done'); return 0", "raise UserError('no')"])
def test_without_a_reader_it_still_ends(body):
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = ended(body, stdout=writer, stderr=writer, timeout=60, env=buffered)
    os.close(writer)
    assert done.returncode == (0 if "done" in body else 2)


def test_a_reader_that_goes_early_leaves_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    done = ended("print('line\\n' * 100_000)", stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_run_goes_on_when_the_reader_of_its_lines_has_gone(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stderr", stream)
    view = Terminal()
    view.started("linear")
    view.ended(Result("linear", "ran", 1.0))
    monkeypatch.undo()
    assert view.results["linear"].done
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_stage_ends_with_its_seconds_and_memory_and_says_where_it_held_more_than_declared(capsys):
    view, result = Terminal(), Result("embed", "ran", 2.34, memory=5 * 2**30)
    view.ended(against(Stage("embed", memory=4 * 2**30), result))
    assert (
        against(Stage("embed"), result) == against(Stage("embed", memory=2**33), result) == result
    )
    view.ended(Result("knn", "skipped", 0.0))
    assert capsys.readouterr().err.splitlines() == [
        "embed: ran in 2.3 s with 5.0 GiB: more than the 4.0 GiB of its meta.resources.memory",
        "knn: skipped",
    ]


def test_a_run_begins_with_its_plan(capsys):
    Terminal().began({}, ["2 of 3 stages will run: about 5 s", "fetch.more is used by no stage"])
    assert capsys.readouterr().err.splitlines() == [
        "2 of 3 stages will run: about 5 s",
        "fetch.more is used by no stage",
    ]


@pytest.mark.parametrize("module", ["pipelines.repro", "pipelines.engine.dvc_command"])
def test_a_command_takes_ctrl_c_before_it_loads_the_library(module):
    """Ctrl-C at a module that loads before is a traceback."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    loaded = [line.split("|")[-1].strip() for line in done.stderr.splitlines() if "|" in line]
    assert loaded.index("stages.common.stopping") < loaded.index("prosmin")
