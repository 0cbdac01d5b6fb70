"""What an experiment starts from: the last commit and what has been changed since; who commits."""

import os
import subprocess

import pytest

from pipelines.graph.snapshot import check_committer, commits_of, knows_committer, take_snapshot
from prosmin.common.errors import UserError


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
    assert take_snapshot() == head and commits_of(head) == (head, "")
    (tmp_path / "params.yaml").write_text("a: 2\n")
    commit, changes = commits_of(take_snapshot())
    assert commit == head and git("show", f"{changes}:params.yaml") == "a: 2"


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A repository of somebody of whom git knows nothing."""
    monkeypatch.chdir(tmp_path)
    for variable in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(variable, os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        for part in ("NAME", "EMAIL"):
            monkeypatch.delenv(f"GIT_{role}_{part}", raising=False)
    subprocess.run(["git", "init", "-q"], check=True)


def test_a_name_in_the_settings_of_the_repository_suffices(nobody):
    with pytest.raises(UserError, match="^git knows no name for the commits of experiments; "):
        check_committer()
    subprocess.run(["git", "config", "user.name", "test"], check=True)
    subprocess.run(["git", "config", "user.email", "test@example.org"], check=True)
    check_committer()


def test_a_name_in_the_environment_suffices(nobody, monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.org")
    assert knows_committer()
