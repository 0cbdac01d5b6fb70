"""Git as experiments call it: it ends its work, and its failures are sentences."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.graph.snapshot import git
from prosmin.common.errors import UserError
from tests.pipelines.projects import ROOT, until

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


def test_variables_of_a_hook_lead_to_no_other_repository(tmp_path):
    """An experiment that a hook starts would move the branch of the user."""
    for name in ("users", "of_the_experiment"):
        (tmp_path / name).mkdir()
        subprocess.run(["git", "init", "-q"], cwd=tmp_path / name, check=True)
    code = (
        "import sys; sys.argv[0] = '-m'; "  # as for `python -m pipelines.run`
        "from pathlib import Path; from pipelines.graph import experiment; "
        "print(experiment.git(Path(), 'rev-parse', '--absolute-git-dir'), end='')"
    )
    hook = {"GIT_DIR": f"{tmp_path}/users/.git", "GIT_INDEX_FILE": f"{tmp_path}/users/.git/index"}
    here = tmp_path / "of_the_experiment"
    variables = {**os.environ, **hook, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=here, env=variables, capture_output=True, text=True)
    assert done.stdout.strip() == str(here / ".git"), done.stderr


def test_the_lock_of_a_git_that_was_killed_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / ".git/index.lock").touch()
    with pytest.raises(
        UserError, match=r"git add failed: .git/index.lock is there; .* `rm .git/index.lock`"
    ):
        git(Path(), "add", ".")
