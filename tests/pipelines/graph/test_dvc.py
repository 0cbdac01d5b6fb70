"""Messages and private files of the installed DVC are those that ``pipelines.graph.dvc`` knows."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.graph import dvc
from stages.common import proof

# Numbers that YAML's readers take for different types.
PARAMS = "rate: 1e-06\nsmall: 1.0e-3\nwhole: 10\ntext: 'yes'\nempty: null\nlist: [1, 2.5]\n"
GRAPH = """
stages:
  make:
    cmd: sh make.sh
    params: [rate, small, whole, text, empty, list]
    deps: [make.sh]
    outs: [out, folder]
"""
MAKE = "rm -rf folder out; mkdir folder; echo made | tee folder/a > out\n"


def test_the_version_is_the_one_that_this_was_written_for():
    """Before you raise ``VERSION``: the tests below, and ``benchmarks.trust.faults``."""
    assert importlib.metadata.version("dvc") == dvc.VERSION


@pytest.fixture
def folder(tmp_path, initialised, monkeypatch) -> Path:
    shutil.copytree(initialised, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name, text in {"params.yaml": PARAMS, "dvc.yaml": GRAPH, "make.sh": MAKE}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def repro(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def runs() -> list[Path]:
    return [path for path in Path(".dvc/cache/runs").glob("*/*/*") if path.is_file()]


@pytest.mark.integration
def test_the_words_for_what_became_of_a_stage(folder):
    said = {}
    code, said["ran"] = repro()
    assert code == 0
    _, said["skipped"] = repro()
    shutil.rmtree("folder")
    os.remove("dvc.lock")
    _, said["cached"] = repro()
    assert {name: dvc.outcome(text) for name, text in said.items()} == {name: name for name in said}
    assert any(dvc.ADVICE.match(line) for line in said["ran"].splitlines())

    Path("make.sh").write_text("echo 'ERROR: x is busy, it is being blocked by y'; exit 3\n")
    code, failed = repro()
    assert code and not dvc.try_again(failed)
    assert dvc.reason(failed, code).endswith("failed to run: sh make.sh, exited with 3")
    assert dvc.reason("ERROR: a\nerror: my own words\nERROR: b", 255) == "my own words"
    assert dvc.reason("", 7) == "ended with code 7"


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_the_words_for_a_lock_that_another_holds(folder):
    Path(dvc.TMP).mkdir(exist_ok=True)
    with dvc.held("lock") as mine:
        assert mine
        with dvc.held("lock") as second:
            assert not second
        code, said = repro()
    assert code and dvc.try_again(said), said
    note = f'{{"write": {{"{folder}/out": {{"pid": {os.getpid()}, "cmd": "dvc"}}}}, "read": {{}}}}'
    Path(dvc.TMP, "rwlock").write_text(note)
    code, said = repro()
    assert code and "is busy" in said and dvc.try_again(said), said
    Path(dvc.TMP, "rwlock").write_text('{"write": {')
    code, said = repro()
    assert code and dvc.TORN_NOTE.search(said) and dvc.try_again(said), said
    assert len(list(dvc.mend_note())) == 1
    assert repro()[0] == 0


@pytest.mark.integration
def test_torn_entries_of_the_run_cache_are_removed_and_whole_ones_kept(folder):
    repro()
    (entry,) = runs()
    assert not list(dvc.remove_torn_runs(proof.cache())) and entry.is_file()
    assert proof.noted(dvc.RUNS) == {str(entry): proof.place(entry)}
    text = entry.read_text()
    for damaged in ("", text[: len(text) // 2], text.replace("cmd: sh", "cmd: true")):
        entry.parent.mkdir(exist_ok=True)
        entry.write_text(damaged)
        assert list(dvc.remove_torn_runs(proof.cache())) == [entry]
        assert not entry.parent.exists() and not proof.noted(dvc.RUNS)
    entry.mkdir(parents=True)
    assert list(dvc.remove_torn_runs(proof.cache())) == [entry]
    os.remove("dvc.lock")
    code, said = repro()
    assert code == 0 and dvc.outcome(said) == "ran" and runs() == [entry]


@pytest.mark.integration
def test_dvc_computes_the_checksum_of_an_object_that_is_not_read_only(folder):
    repro()
    objects = [path for path in Path(".dvc/cache/files/md5").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in objects} == {0o444}
    rotten = next(path for path in objects if path.suffix != proof.FOLDER)
    rotten.chmod(0o644)
    rotten.write_text("made!")
    rotten.chmod(0o444)
    dvc.distrust(proof.cache())
    shutil.rmtree("folder")
    os.remove("out")
    code, said = repro()
    assert code == 0 and dvc.outcome(said) == "ran", said
    assert Path("out").read_text() == Path("folder/a").read_text() == "made\n"


def test_links_into_the_cache_keep_their_mode(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = Path(".dvc/cache/files/md5/ab/cd")
    held.parent.mkdir(parents=True)
    held.write_text("x")
    held.chmod(0o444)
    for kinds, mode in (("reflink, hardlink", 0o444), ("reflink,copy", 0o644)):
        Path(".dvc/config").write_text(f"[cache]\n    type = {kinds}\n")
        dvc.distrust(proof.cache())
        assert held.stat().st_mode & 0o777 == mode
