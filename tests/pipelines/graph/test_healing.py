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
import yaml

from pipelines.engine import durations
from pipelines.graph import lockfile
from pipelines.graph.experiment import git
from pipelines.graph.healing import clear_experiments, experiment_folder, heal
from pipelines.graph.workspace import alone
from prosmin.common.errors import UserError
from tests.pipelines.conftest import ROOT, Project, until

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
    assert len(before) == 9
    yield finished
    assert finished.left() == before
    assert not [*finished.folder.glob(".*.part"), *finished.folder.glob("[a-z]*/**/.*.*")]


def test_a_leftover_of_a_write_is_never_hashed_and_is_removed(damaged):
    folder = damaged.folder
    kill = "import os, signal; os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
    write = (
        "from prosmin.common.files import write_text; write_text('metrics/leaf/one.json', 'half'); "
    )
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
    os.replace(folder / "results/middle", folder / f"results/.middle.{dead.pid}.old")
    assert "metrics" not in damaged.run("dvc", "status", "total")
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


@pytest.mark.parametrize(
    ("place", "kept"), [(b"stages:", ["one", "two"]), (b"work.py one", ["two"])]
)
def test_bytes_of_a_lock_that_are_no_text_are_taken_out(tmp_path, monkeypatch, place, kept):
    from pipelines.graph import lockfile

    monkeypatch.chdir(tmp_path)
    entry = (
        "  {0}:\n    cmd: python work.py {0}\n    outs:\n"
        "    - path: results/{0}\n      hash: md5\n      md5: {1}\n      size: 3\n"
    )
    text = (
        "schema: '2.0'\nstages:\n" + entry.format("one", "0" * 32) + entry.format("two", "1" * 32)
    )
    Path("dvc.lock").write_bytes(text.encode().replace(place, place[:3] + b"\xff" + place[4:]))
    assert len(list(lockfile.mend())) == 1
    assert [name for name, _ in lockfile._split(Path("dvc.lock"))[1]] == kept and list(
        lockfile.mend()
    ) == []


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
        if place % 4 == 3:
            entry.unlink()
            if place % 8 == 3:
                entry.mkdir()
        else:
            entry.write_text(
                ["", text[: len(text) // 2], text.replace("cmd: python", "cmd: true")][place % 4]
            )
    (damaged.folder / "dvc.lock").unlink()
    said = damaged.run(REPRO)
    assert said.count("Running stage") == 8 and "ERROR" not in said
    assert len(entries) >= 8
    removed = "removed torn entries of the run cache: "
    (line,) = [line for line in said.splitlines() if line.startswith(removed)]
    deleted = sum(place % 8 == 7 for place in range(len(entries)))
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


def test_times_that_are_none_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (
        '{"a": NaN, "b": 1e999, "c": -1, "d": "x", "e": 2.5}',
        '{"e": 2.5',
        "[" * 100_000,
        "",
        "[1]",
    ):
        durations.KEPT.parent.mkdir(exist_ok=True)
        durations.KEPT.write_text(text)
        assert durations.load() in ({"e": 2.5}, {})
        durations.save(durations.load())


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


def test_the_order_of_a_run_that_was_killed_is_known_to_the_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = "  {}:\n    cmd: python {}\n"

    def write(names):
        Path("dvc.lock").write_text(
            lockfile.HEAD + "".join(entry.format(name, name) for name in names)
        )

    def names():
        return list(yaml.safe_load(Path("dvc.lock").read_text())["stages"])

    stages = ["one", "two", "three", "four"]
    write(["two"])
    before = lockfile.snapshot(stages)
    write(["two", "four", "one"])  # killed when these two had ended
    assert lockfile.snapshot(stages) == before == lockfile.noted() == {Path("dvc.lock"): ["two"]}
    write(["two", "four", "one", "three"])
    lockfile.restore_order(before, stages)
    assert names() == ["two", "one", "three", "four"]
    lockfile.forget()
    assert lockfile.noted() == {} and lockfile.snapshot(stages) == {Path("dvc.lock"): names()}


def test_make_repro_after_a_killed_flow_leaves_the_order_of_a_run_that_nobody_disturbed(damaged):
    path = damaged.folder / "dvc.lock"
    head, entries, _ = lockfile._split(path)
    path.write_text(head + "".join(text for _, text in reversed(entries)))
    lockfile._note({Path("dvc.lock"): []})
    damaged.run(REPRO)
    assert not lockfile.noted()


@pytest.mark.parametrize("torn", ["", "{", "[1]", "NaN", "5", '{"dvc.lock": 1e999}'])
def test_notes_that_are_torn_are_none(tmp_path, monkeypatch, torn):
    from pipelines.engine import durations
    from pipelines.graph import lockfile
    from stages.common import proof

    monkeypatch.chdir(tmp_path)
    for path in (lockfile.ORDER, durations.KEPT, proof._file("data/digits")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(torn)
    assert lockfile.noted() == {} and durations.load() == {}
    assert not list(proof.faults(["data/digits"]))


GIT = """
import os, sys, time
open(".git/index.lock", "w").close()
time.sleep(2)
os.unlink(".git/index.lock")
"""


def test_a_git_that_is_at_work_when_a_run_is_stopped_ends_its_work(tmp_path):
    """One that is killed would leave its lock, over which every later sweep fails."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/git"
    fake.write_text(f"#!{sys.executable}\n{GIT}")
    fake.chmod(0o755)
    (tmp_path / ".git").mkdir()
    code = (
        "from pathlib import Path; from pipelines import run; "
        "from pipelines.graph import experiment; "
        "run.command(lambda: experiment.git(Path(), 'stash'))"
    )
    variables = {
        **os.environ,
        "PATH": f"{fake.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    run = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=variables)
    until(lambda: (tmp_path / ".git/index.lock").exists())
    run.send_signal(signal.SIGHUP)
    assert run.wait(timeout=60) == 129
    assert not (tmp_path / ".git/index.lock").exists()


def test_the_lock_of_a_git_that_was_killed_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / ".git/index.lock").touch()
    with pytest.raises(
        UserError, match=r"git add failed: .git/index.lock is there; .* `rm .git/index.lock`"
    ):
        git(Path(), "add", ".")
