"""Files and folders are whole or absent, even when their writer is killed."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prosmin.common import files

ROOT = str(Path(__file__).parents[4])


def test_writers_leave_only_the_whole_file(tmp_path):
    files.write_json(tmp_path / "deep" / "a.json", {"b": [1, 2.5]})
    assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {"b": [1, 2.5]}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_a_failing_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    files.write_json(target, {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(target, {"new": math.nan})
    assert files.read_json(target) == {"old": 1}


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"
    with files.whole_folder(target) as part:
        (part / "a").write_text("first")
    with pytest.raises(KeyboardInterrupt), files.whole_folder(target) as part:
        (part / "b").write_text("second")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in target.iterdir()] == ["a"]
    with files.whole_folder(target) as part:
        (part / "c").write_text("third")
    assert [path.name for path in target.iterdir()] == ["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def killed(folder, code, renames):
    """Run ``code`` in a process that is killed at its ``renames``-th rename; return its number."""
    kill = (
        "import os, signal\nrename, left = os.replace, [{}]\n"
        "def replace(*names):\n"
        "    left[0] -= 1\n"
        "    return rename(*names) if left[0] else os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = replace\nfrom prosmin.common.files import *\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", kill.format(renames) + code], cwd=folder, env={"PYTHONPATH": ROOT}
    )
    assert process.wait() == -signal.SIGKILL
    return process.pid


WHOLE = "with whole_folder('out') as part: (part / 'a').write_text('new')"


def test_what_a_killed_process_has_left_is_removed_by_the_next_that_writes_there(tmp_path):
    pid = killed(tmp_path, "write_text('a.txt', 'half')", 1)
    assert [path.name for path in tmp_path.iterdir()] == [f".a.txt.{pid}.part"]
    (tmp_path / ".mine.txt").touch()
    alive = tmp_path / f".c.txt.{os.getpid()}.part"
    alive.touch()
    files.write_text(tmp_path / "b.txt", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, ".mine.txt", "b.txt"]


@pytest.mark.parametrize(("renames", "there"), [(1, True), (2, False)])
def test_a_folder_that_was_being_replaced_is_put_back(tmp_path, renames, there):
    with files.whole_folder(tmp_path / "out") as part:
        (part / "a").write_text("old")
    killed(tmp_path, WHOLE, renames)
    assert (tmp_path / "out").exists() == there and len(list(tmp_path.iterdir())) == 2
    assert len(files.recover(tmp_path)) == (1 if there else 2)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "old"


def test_a_process_that_began_later_or_is_a_zombie_is_not_the_one_that_wrote():
    other = subprocess.Popen(["sleep", "60"])
    try:
        assert files.running(other.pid, time.time())
        assert not files.running(other.pid, time.time() - 10)
    finally:
        other.kill()
    until = time.monotonic() + 30
    while (
        files.running(other.pid, time.time()) and time.monotonic() < until
    ):  # until it is a zombie
        time.sleep(0.01)
    assert not files.running(other.pid, time.time())
    other.wait()
