"""What an experiment starts from: the last commit and what has been changed since."""

import os
import subprocess

from pipelines.graph.snapshot import take_snapshot


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_file_with_a_new_time_stamp_alone_is_no_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{variable}_NAME", "test")
        monkeypatch.setenv(f"{variable}_EMAIL", "test@example.org")
    git("init", "-q")
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text("a: 1\n")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    os.utime("params.yaml", (0, 0))
    assert take_snapshot() == head
    (tmp_path / "params.yaml").write_text("a: 2\n")
    commit, changes = take_snapshot().split("+")
    assert commit == head and git("show", f"{changes}:params.yaml") == "a: 2"
