"""What ``make`` says of a machine that lacks something."""

import ast
import shutil
import subprocess

import pytest

from pipelines import environment
from tests.pipelines.environment.conftest import INSTALL, PYTHON, ROOT


def test_it_parses_under_python_3_6():
    ast.parse((ROOT / "pipelines" / "environment.py").read_text(), feature_version=(3, 6))


# --- what may be missing --------------------------------------------------------------------------


def test_an_old_python_is_named_and_so_is_what_to_install(machine):
    machine.disguised("python3", (3, 8, 18))
    assert machine.complaint() == f"Python 3.8.18 (python3) is too old; {INSTALL}"
    assert not (machine.checkout / ".venv").exists()


def test_a_python_newer_than_the_lock_is_refused(machine):
    machine.disguised("python3", (3, 14, 0))
    assert machine.complaint() == f"Python 3.14.0 (python3) is too new; {INSTALL}"


def test_no_python_at_all(machine):
    assert machine.complaint() == "no Python was found; install Python 3.11, 3.12 or 3.13"


def test_a_named_python_that_does_not_run(machine):
    machine.link("python3", PYTHON)
    assert (
        machine.complaint("PYTHON=/nowhere/python3")
        == f"PYTHON=/nowhere/python3 does not run; {INSTALL}"
    )


def test_a_named_python_is_not_replaced_by_another(machine):
    machine.link("python3", PYTHON)
    machine.disguised("old", (3, 9, 1))
    assert machine.complaint("PYTHON=old") == f"Python 3.9.1 (old) is too old; {INSTALL}"


def test_a_python_without_its_venv_module_names_the_package_to_install(machine):
    machine.disguised("python3", (3, 12, 1), lacking=("ensurepip",))
    assert machine.complaint() == (
        "Python 3.12.1 (python3) has no venv module to make an environment with; "
        "install it (on Debian and Ubuntu: the package python3.12-venv)"
    )


def test_commands_that_only_fail_and_old_pythons_are_passed_over(machine, monkeypatch):
    machine.script("python3.13", "#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    machine.disguised("python3", (3, 8, 18))
    machine.disguised("python3.12", (3, 12, 1), lacking=("venv",))
    machine.link("python3.11", PYTHON)
    monkeypatch.setenv("PATH", str(machine.commands))
    assert environment.choose_python(None).name == "python3.11"


@pytest.mark.parametrize("around", [False, True], ids=["no clone", "inside another clone"])
def test_an_unpacked_archive_is_not_a_clone(machine, around):
    machine.link("python3", PYTHON)
    shutil.rmtree(machine.checkout / ".git")
    if around:
        subprocess.run(["git", "init", "--quiet", machine.checkout.parent], check=True)
    assert machine.complaint() == (
        "this folder is not a git clone, and DVC needs one; "
        "use `git clone` instead of an unpacked archive"
    )


def test_git_is_missing(machine):
    machine.link("python3", PYTHON)
    (machine.commands / "git").unlink()
    assert machine.complaint() == "git was not found, and DVC needs it; install git"


def test_another_user_s_folder_is_told_apart_from_a_missing_clone(machine):
    machine.link("python3", PYTHON)
    machine.variables["GIT_TEST_ASSUME_DIFFERENT_OWNER"] = "1"
    assert machine.complaint().startswith("git refuses this folder because another user owns it")


def test_no_network_is_one_sentence_and_leaves_nothing_that_looks_finished(machine):
    machine.link("python3", PYTHON)
    machine.variables |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    assert (
        machine.complaint()
        == "the package index cannot be reached; check the network, then run the same command again"
    )


def test_a_package_that_differs_from_the_lock_is_not_installed(machine):
    machine.link("python3", PYTHON)
    line = machine.wheel("uv")
    machine.offers(line[: line.index("sha256:")], "sha256:" + "0" * 64 + "\n")
    assert (
        machine.complaint()
        == "a package does not match its hash in requirements.lock, so it was not installed"
    )


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            "disk",
            "ERROR: Could not install packages due to an OSError: "
            "[Errno 28] No space left on device",
        ),
        (
            "network",
            "error: Failed to fetch: `https://index/torch/`\n"
            "  Caused by: dns error: failed to lookup address",
        ),
        (
            "network",
            "ConnectTimeoutError(<HTTPSConnection>, "
            "'Connection to index timed out. (connect timeout=15)')",
        ),
        ("hash", "error: Hash mismatch for `torch==2.15.0`"),
        ("unknown", "ERROR: No matching distribution found for torch==2.15.0"),
    ],
)
def test_why_an_installer_failed_is_read_from_what_it_says(reason, said):
    assert environment.install(["sh", "-c", 'echo "$0"; exit 1', said]) == (reason, f"{said}\n")
