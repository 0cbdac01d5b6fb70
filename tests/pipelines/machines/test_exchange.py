"""Code, data and experiments between two clones, by a bare repository and a remote in a folder."""

import contextlib
import subprocess
from pathlib import Path

import pytest
from dvc.cli import main

from pipelines.graph.snapshot import git, take_snapshot
from pipelines.machines import exchange
from prosmin.common.errors import UserError
from tests.pipelines.clones import commit, two_stages


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A project with both remotes, whose graph has run."""
    monkeypatch.setenv("GIT_AUTHOR_NAME", "test")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "test@example.org")
    monkeypatch.setenv("GIT_COMMITTER_NAME", "test")
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "test@example.org")
    folder, bare = tmp_path / "desk", tmp_path / "bare"
    two_stages(folder)
    subprocess.run(["git", "init", "--quiet", "--bare", bare], check=True)
    git(folder, "remote", "add", "origin", str(bare))
    with contextlib.chdir(folder):
        assert main(["remote", "add", "--default", "--quiet", "lab", str(tmp_path / "stored")]) == 0
        assert main(["repro", "--quiet"]) == 0
    commit(folder)
    git(folder, "push", "--quiet", "origin", "main")
    return folder


@pytest.fixture
def worker(desk, tmp_path) -> Path:
    """A clone of the bare repository."""
    folder = tmp_path / "worker"
    subprocess.run(["git", "clone", "--quiet", tmp_path / "bare", folder], check=True)
    git(folder, "checkout", "--quiet", "main")
    return folder


def test_code_and_data_go_out_and_an_experiment_comes_back(desk, worker):
    text = (desk / "params.yaml").read_text()
    with contextlib.chdir(desk):
        Path("params.yaml").write_text(f"{text}# edited\n")
        snapshot = take_snapshot()
        assert "+" in snapshot
        exchange.send(snapshot, "lambda", "origin", ["report"])
    with contextlib.chdir(worker):
        exchange.receive(snapshot, "lambda", "origin")
        head, _, edits = snapshot.partition("+")
        assert git(worker, "show", f"{edits}:params.yaml") == f"{text}# edited\n"
        exchange.fetch_data(["report"])
        assert main(["checkout", "--quiet"]) == 0
        assert Path("data/photos").read_text() == "pixels\n"
        Path("params.yaml").write_text(text.replace("k: [", "k: [2, ", 1))
        assert main(["repro", "--quiet"]) == 0
        assert main(["exp", "save", "--quiet", "--name", "lambda-0"]) == 0
        exchange.push_experiment("lambda-0", exchange.address("origin"))
    with contextlib.chdir(desk):
        exchange.pull_experiment("lambda-0", head, "origin")
        git(desk, "checkout", "--quiet", "--", ".")
        assert main(["exp", "apply", "--quiet", "lambda-0"]) == 0
        assert Path("results/report").read_bytes() == (worker / "results/report").read_bytes()
        assert git(desk, "ls-remote", "origin", "refs/sweeps/*").count("\n") == 2
        exchange.withdraw(snapshot, "lambda", "origin")
        assert git(desk, "ls-remote", "origin", "refs/sweeps/*") == ""
    with contextlib.chdir(worker), pytest.raises(UserError, match=r"^git fetch failed: .*lambda"):
        exchange.receive(snapshot, "lambda", "origin")


def test_one_stage_of_another_machine_is_taken_as_if_it_had_run_here(desk, worker):
    with contextlib.chdir(desk):
        assert exchange.needs(["report"]) == ["fetch"] and exchange.untracked(["fetch"]) == []
        text = Path("params.yaml").read_text()
        edited = text.replace("k: [", "k: [2, ", 1)
        Path("params.yaml").write_text(edited)
        snapshot = take_snapshot()
        exchange.send(snapshot, "a-run", "origin", ["fetch"], whole=False)
    commit = snapshot.partition("+")[0]
    with contextlib.chdir(worker):
        exchange.receive(snapshot, "a-run", "origin")
        exchange.fetch_data(["fetch"], whole=False)
        assert main(["checkout", "--quiet", "--allow-missing"]) == 0
        assert Path("data/photos").exists() and not Path("results/report").exists()
        Path("params.yaml").write_text(edited)
        assert main(["repro", "--quiet", "--single-item", "report"]) == 0
        assert main(["exp", "save", "--quiet", "--name", "one-stage"]) == 0
        exchange.push_experiment("one-stage", exchange.address("origin"))
    with contextlib.chdir(desk):
        exchange.pull_experiment("one-stage", commit, "origin")
        exchange.adopt("one-stage", commit, "report")
        assert Path("results/report").read_bytes() == (worker / "results/report").read_bytes()
        assert Path("dvc.lock").read_text() == (worker / "dvc.lock").read_text()
        assert main(["status", "--quiet"]) == 0
        # Edited meanwhile, it is not taken for the result of what is here now.
        Path("params.yaml").write_text(text.replace("k: [", "k: [3, ", 1))
        with pytest.raises(UserError, match=r"^report ran on a worker with other inputs"):
            exchange.adopt("one-stage", commit, "report")
        assert "report" not in Path("dvc.lock").read_text()
        exchange.forget("one-stage", commit, "origin")
        assert "one-stage" not in git(desk, "ls-remote", "origin") + git(desk, "for-each-ref")


def test_data_that_the_remote_lacks_are_made_anew(desk, worker, caplog):
    with contextlib.chdir(worker):
        exchange.fetch_data(["report"])
        assert main(["repro", "--quiet"]) == 0
    assert not caplog.records


def test_a_remote_that_is_missing_is_one_sentence(desk, tmp_path):
    with contextlib.chdir(desk):
        exchange.check("origin")
        head = take_snapshot()
        with pytest.raises(UserError, match=r"^git has no remote lab, .*`git remote add lab URL`$"):
            exchange.check("lab")
        with pytest.raises(UserError, match=r"^remote origin has no lambda-7|lambda-7 cannot be"):
            exchange.pull_experiment("lambda-7", head.partition("+")[0], "origin")
        assert main(["remote", "default", "--unset", "--quiet"]) == 0
        with pytest.raises(UserError, match=r"^DVC has no default remote, .*remote add -d"):
            exchange.check("origin")
        (tmp_path / "bare").rename(tmp_path / "away")
        with pytest.raises(UserError, match=r"^git ls-remote failed: "):
            exchange.check("origin")


def test_an_action_is_tried_again_until_its_time_is_over(monkeypatch):
    monkeypatch.setattr(exchange, "PAUSE", 0.01)
    told, answers = [], iter([UserError("the remote is away"), UserError("it is away"), "done"])

    def action() -> str:
        if isinstance(answer := next(answers), UserError):
            raise answer
        return answer

    assert exchange.patiently(action, 60, told.append, bool) == "done"
    assert told == ["the remote is away; trying again for 60 seconds"]
    answers = iter([UserError("it is gone"), UserError("it is gone")])
    with pytest.raises(UserError, match="it is gone"):
        exchange.patiently(action, 60, told.append, lambda: True)
    with pytest.raises(UserError, match="it is gone"):
        exchange.patiently(action, 0, told.append, bool)


def test_credentials_in_an_address_are_not_shown():
    said = "git fetch failed: https://ada:secret@example.org/a.git and ssh://ada@example.org/b"
    assert exchange.hidden(said) == (
        "git fetch failed: https://…@example.org/a.git and ssh://…@example.org/b"
    )
