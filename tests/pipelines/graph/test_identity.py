"""Whether git knows who commits, before an experiment starts."""

import os
import subprocess

import pytest

from pipelines.graph.snapshot import check_committer, knows_committer
from prosmin.common.errors import UserError


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
