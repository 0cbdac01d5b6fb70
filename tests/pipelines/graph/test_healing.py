"""The next run repairs what a killed run has left, and ends as if nothing had happened."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.engine import measured
from pipelines.graph import lockfile
from pipelines.graph.healing import clear_experiments, experiment_folder, heal
from pipelines.graph.workspace import alone
from stages.common import proof
from tests.pipelines.projects import ROOT, Project

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
COPY = ".5olDpSrtAbCdEfGh_-01xZ.tmp"  # as DVC names a copy that is not yet whole
REPRO = "pipelines.repro"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The toy graph after a run that nothing has disturbed."""
    project = Project(tmp_path_factory.mktemp("finished") / "a project", {})
    shutil.copy(ROOT / ".dvcignore", project.folder)
    project.run(REPRO)
    return project


@pytest.fixture
def damaged(finished, monkeypatch):
    """The same, in which a test may break what it likes: it must end as it was."""
    monkeypatch.chdir(finished.folder)
    before = finished.left()
    assert len(before) == 7
    yield finished
    assert finished.left() == before
    assert not [*finished.folder.glob(".*.part"), *finished.folder.glob("[a-z]*/**/.*.*")]


def test_a_leftover_of_a_write_is_never_hashed_and_is_removed(damaged):
    folder = damaged.folder
    kill = "import os, signal; os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
    write = "from prosmin.common import files; files.write_text('metrics/leaf/one.json', 'half')"
    dead = subprocess.Popen(
        [sys.executable, "-c", kill + write],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert dead.wait() == -signal.SIGKILL
    half = folder / f"metrics/leaf/.one.json.{dead.pid}.part"
    assert half.read_text() == "half"
    (folder / "metrics" / COPY).write_text("half of a copy")
    (folder / f"metrics/leaf/.stray.{dead.pid}.old").mkdir()  # no stage writes a folder there
    (folder / f".dvc.lock.{dead.pid}.part").write_text("half of a lock")
    others = [".DS_Store", "leaf/.nfs0000000000a1", "leaf/.~lock.one.json#", "leaf/.x/file"]
    for name in others:
        (folder / "metrics" / name).parent.mkdir(exist_ok=True)
        (folder / "metrics" / name).write_text("of another program")
    os.replace(folder / "results/middle", folder / f"results/.middle.{dead.pid}.old")
    assert "metrics" not in damaged.run("dvc", "status", "total")
    assert sorted(proof.below("metrics")) == ["metrics/leaf/one.json", "metrics/leaf/two.json"]
    for name in others:
        (folder / "metrics" / name).unlink()
    (folder / "metrics/leaf/.x").rmdir()
    (folder / ".dvc/tmp/rwlock").write_text('{"write": {')
    said = damaged.run(REPRO)
    assert "removed what an interrupted write had left" in said and "Running stage" not in said
    assert ".dvc/tmp/rwlock was torn" in said and "ERROR" not in said
    assert not half.exists()


def test_an_unfinished_copy_in_the_cache_is_removed_once_nobody_writes_it(damaged):
    cache = damaged.folder / ".dvc/cache"
    entry = next(iter(sorted((cache / "runs").glob("*/*"))))
    copies = [folder / COPY for folder in (cache / "files/md5", cache / "files/md5/ab", entry)]
    copies[1].parent.mkdir(exist_ok=True)
    for copy in copies:
        copy.write_text("half")
    assert not list(heal())  # written just now
    for copy in copies:
        os.utime(copy, (0, 0))
    with open(copies[0], "a"):
        assert len(list(heal())) == 1 and [copy.exists() for copy in copies] == [True, False, False]
    assert len(list(heal())) == 1 and not copies[0].exists()


def test_git_and_dvc_ignore_what_a_write_may_leave():
    for path in (".gitignore", ".dvcignore"):
        patterns = (ROOT / path).read_text().splitlines()
        assert {".*.[0-9]*.part", ".*.[0-9]*.old", "*.??????????????????????.tmp"} <= set(patterns)


def test_a_torn_note_of_who_reads_and_writes_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".dvc/tmp").mkdir(parents=True)
    note = Path(".dvc/tmp/rwlock")
    for text in (
        "",
        '{"write": {"/a/b": {"pid": 1, "cm',
        '{"write": {"/a/b": 7}}',
        "[]",
        "null",
        "\0" * 40,
        "[" * 100_000,
    ):
        note.write_text(text)
        assert list(heal()) == [
            ".dvc/tmp/rwlock was torn by an interrupted DVC and has been removed"
        ]
    program = tmp_path / "bin" / "dvc"
    program.parent.mkdir()
    program.write_text("import sys; sys.stdin.read()")
    alive = subprocess.Popen([sys.executable, str(program), "repro"], stdin=subprocess.PIPE)
    for text in (
        "{}",
        json.dumps({"write": {"/a": {"pid": alive.pid, "cmd": f"{program} repro"}}, "read": {}}),
    ):
        note.write_text(text)
        assert not list(heal()) and note.read_text() == text
    alive.communicate()
    assert len(list(heal())) == 1 and json.loads(note.read_text()) == {"write": {}, "read": {}}


def test_the_number_of_a_dvc_that_has_ended_may_belong_to_another_process(damaged):
    other = subprocess.Popen(["sleep", "100"])
    try:
        note = {"pid": other.pid, "cmd": f"{ROOT}/pipelines/engine/dvc_command.py repro"}
        path = damaged.folder / ".dvc/tmp/rwlock"
        path.write_text(
            json.dumps({"write": {str(damaged.folder / "metrics/leaf/one.json"): note}, "read": {}})
        )
        said = damaged.run(REPRO, "leaf@one")
        assert (
            "took out of .dvc/tmp/rwlock what processes held that have ended" in said
            and "busy" not in said
        )
    finally:
        other.kill()
        other.wait()


def test_a_folder_or_a_file_in_the_place_of_a_lock_is_no_obstacle(damaged):
    folder = damaged.folder
    shutil.rmtree(folder / ".prosmin")
    (folder / ".prosmin").write_text("a file")
    for name in ("lock", "rwlock", "rwlock.lock"):
        (folder / ".dvc/tmp" / name).unlink(missing_ok=True)
        (folder / ".dvc/tmp" / name / "deep").mkdir(parents=True)
    said = damaged.run(REPRO)
    assert (
        "moved .prosmin to .prosmin.away" in said
        and said.count("it was a folder, and there must be a file") == 3
    )
    (folder / ".prosmin.away").unlink()
    (folder / ".prosmin/run.lock").unlink()
    (folder / ".prosmin/run.lock").mkdir()
    with alone():
        assert (folder / ".prosmin/run.lock").is_file()


@pytest.mark.parametrize("cut", [b"\n  ", b"cmd: python", b"schema: '2"])
def test_a_torn_lock_is_made_whole(damaged, cut):
    path = damaged.folder / "dvc.lock"
    text = path.read_bytes()
    path.write_bytes(text[: text.rindex(cut) + len(cut)])
    said = damaged.run(REPRO)
    assert said.count("took out of dvc.lock, which was torn") == 1


@pytest.mark.parametrize("end", ["line ends", "size", "nfiles"])
def test_what_dvc_reads_and_would_keep_for_good_is_put_right_in_a_lock(damaged, end):
    path = damaged.folder / "dvc.lock"
    text = path.read_text()
    if end == "line ends":
        path.write_bytes(text.replace("\n", "\r\n").encode())
    else:
        path.write_text(re.sub(rf"({end}: )\d+", r"\g<1>7", text, count=1))
    assert path.read_bytes() != text.encode()
    assert "put right sizes or line ends in dvc.lock" in damaged.run(REPRO)


def test_a_folder_in_the_place_of_a_lock_is_moved_away(damaged):
    path = damaged.folder / "dvc.lock"
    path.unlink()
    path.mkdir()
    assert "moved dvc.lock to dvc.lock.away" in damaged.run(REPRO)
    (damaged.folder / "dvc.lock.away").rmdir()


def test_a_lock_with_a_hole_ends_with_its_entries_in_the_order_they_had(damaged):
    path = damaged.folder / "dvc.lock"
    text = path.read_bytes()
    place = text.index(b"leaf@two")
    path.write_bytes(text[: place + 20] + bytes(40) + text[place + 60 :])
    assert "leaf@two" in damaged.run(REPRO)


def test_a_torn_entry_of_the_run_cache_is_not_cached(damaged):
    entries = sorted(damaged.folder.glob(".dvc/cache/runs/*/*/*"))
    for place, entry in enumerate(entries):
        text = entry.read_text()
        torn = ["", text[: len(text) // 2], text.replace("cmd: python", "cmd: true")]
        if place % 5 < 3:
            entry.write_text(torn[place % 5])
        else:
            entry.unlink()
            if place % 5 == 3:
                entry.mkdir()
    (damaged.folder / "dvc.lock").unlink()
    said = damaged.run(REPRO)
    assert said.count("Running stage") == 6 and "ERROR" not in said
    assert len(entries) >= 6
    removed = "removed torn entries of the run cache: "
    (line,) = [line for line in said.splitlines() if line.startswith(removed)]
    deleted = sum(place % 5 == 4 for place in range(len(entries)))
    assert line.endswith(f" and {len(entries) - deleted - 3} more")


@pytest.mark.parametrize("path", ["results/middle", "metrics/leaf/one.json"])
def test_what_a_rotten_object_of_the_cache_held_is_made_again(damaged, path):
    out = damaged.folder / path
    md5 = hashlib.md5(out.read_bytes()).hexdigest()
    rotten = damaged.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    rotten.chmod(0o644)
    rotten.write_bytes(bytes([rotten.read_bytes()[0] ^ 1]) + rotten.read_bytes()[1:])
    rotten.chmod(0o444)  # by which DVC takes it for whole
    out.unlink()
    damaged.run(REPRO)


def test_a_lock_held_by_what_a_killed_run_has_started_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with alone() as lock:
        child = subprocess.Popen(["sleep", "2"], pass_fds=[lock])
        other = subprocess.run(
            [
                sys.executable,
                "-c",
                "from pipelines.graph.workspace import alone\nwith alone(): pass",
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert f"another run is at work in this folder (process {os.getpid()})" in other.stderr
        killed = subprocess.Popen(["true"])
        killed.wait()
        Path(".prosmin/run.lock").write_text(str(killed.pid))
        os.dup2(os.open(os.devnull, os.O_RDONLY), lock)  # only the child holds it now
        with alone():
            assert child.wait() == 0


def test_the_folder_of_an_experiment_that_was_killed_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import os, signal\nfrom pipelines.graph.healing import experiment_folder\n"
        "with experiment_folder('lost') as folder:\n"
        "    (folder / 'data').mkdir()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}
        ).returncode
        == -9
    )
    with experiment_folder("mine") as mine:
        assert len(list(mine.parent.iterdir())) == 2
        (line,) = clear_experiments()
        assert line.startswith("removed .prosmin/experiments/lost-")
        assert list(mine.parent.iterdir()) == [mine]
    assert not list(mine.parent.iterdir())


def test_make_repro_after_a_killed_flow_leaves_the_order_of_a_run_that_nobody_disturbed(damaged):
    path = damaged.folder / "dvc.lock"
    head, entries, _ = lockfile._split(path.read_text())
    path.write_text(head + "".join(text for _, text in reversed(entries)))
    lockfile._note({Path("dvc.lock"): []})
    damaged.run(REPRO)
    assert not lockfile.noted()


@pytest.mark.parametrize("torn", ["", "{", "[1]", "NaN", "5", '{"dvc.lock": 1e999}'])
def test_notes_that_are_torn_are_none(tmp_path, monkeypatch, torn):
    monkeypatch.chdir(tmp_path)
    for path in (lockfile.ORDER, measured.SECONDS.kept, proof._file("data/digits")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(torn)
    assert lockfile.noted() == {} and measured.SECONDS.load() == {}
    assert not list(proof.faults(["data/digits"]))
