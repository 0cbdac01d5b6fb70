"""What ``make`` says of a machine that lacks something, and when it makes ``.venv`` anew.

Each test has its own checkout, with blanks in the path, and a PATH that it fills itself.
The real lock is installed by .ci/run; here pip installs two small wheels made on the spot.
"""

import ast
import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipelines import environment

ROOT = Path(__file__).parents[2]
PYTHON = getattr(sys, "_base_executable", sys.executable)
VERSION = "{}.{}.{}".format(*sys.version_info[:3])
INSTALL = "install Python 3.11, 3.12 or 3.13, or name one: make repro PYTHON=/path/to/python3"

DISGUISE = """
import runpy, sys
sys.version_info = {version}
for name in {lacking}:
    sys.modules[name] = None
arguments = [word for word in sys.argv[1:] if word != "-I"]
if arguments[0] == "-c":
    exec(arguments[1], {{"__name__": "__main__"}})
else:
    runpy.run_path(arguments[0], run_name="__main__")
"""


class Machine:
    """A checkout, and a folder of commands that is the whole PATH."""

    def __init__(self, folder: Path):
        self.commands, self.wheels = folder / "commands", folder / "wheels"
        self.checkout = folder / "a folder" / "the checkout"
        for made in (self.commands, self.wheels, self.checkout):
            made.mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", self.checkout)
        shutil.copy(ROOT / "requirements.lock", self.checkout)
        shutil.copytree(
            ROOT / "pipelines",
            self.checkout / "pipelines",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        self.link("git", shutil.which("git"))
        subprocess.run(["git", "init", "--quiet", self.checkout], check=True)
        self.variables = {
            "PATH": str(self.commands),
            "HOME": str(folder),
            "PIP_CONFIG_FILE": os.devnull,
        }

    def link(self, name: str, target: str) -> None:
        (self.commands / name).symlink_to(target)

    def script(self, name: str, text: str) -> None:
        (self.commands / name).write_text(text)
        (self.commands / name).chmod(0o755)

    def disguised(
        self, name: str, version: tuple[int, int, int], lacking: tuple[str, ...] = ()
    ) -> None:
        """This Python under another name, with another version and without some modules."""
        disguise = self.commands / f"{name}.py"
        disguise.write_text(DISGUISE.format(version=(*version, "final", 0), lacking=lacking))
        self.script(name, f'#!/bin/sh\nexec "{PYTHON}" "{disguise}" "$@"\n')

    def wheel(self, name: str) -> str:
        """Put a wheel with an empty module where pip looks for it; return its line for the lock."""
        info = f"{name}-1.0.dist-info"
        files = {
            f"{name}.py": b"",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
            b"Tag: py3-none-any\n",
        }
        path = self.wheels / f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            record = ""
            for file, content in files.items():
                archive.writestr(file, content)
                digest = (
                    base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                )
                record += f"{file},sha256={digest},{len(content)}\n"
            archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
        return (
            f"{name}==1.0 \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        )

    def offers(self, *lines: str) -> None:
        (self.checkout / "requirements.lock").write_text("".join(lines))
        self.variables |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [shutil.which("make"), "environment", *arguments],
            cwd=self.checkout,
            env=self.variables,
            capture_output=True,
            text=True,
        )

    def complaint(self, *arguments: str) -> str:
        """The sentence of a ``make`` that must fail and leave no finished environment."""
        done = self.make(*arguments)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert not (self.checkout / ".venv" / "complete").exists()
        (sentence,) = [line for line in done.stderr.splitlines() if not line.startswith("make: ")]
        return sentence.removeprefix("error: ")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


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


# --- when it installs -----------------------------------------------------------------------------


def test_an_environment_is_made_once_and_again_only_when_it_must(machine):
    machine.link("python3", PYTHON)
    machine.offers(
        machine.wheel("uv"), machine.wheel("hello")
    )  # a uv without its program: pip takes over
    first = machine.make()
    assert first.returncode == 0, first.stderr
    assert f"Making .venv with Python {VERSION} (python3)" in first.stdout
    assert "installing with pip" in first.stdout
    python = machine.checkout / ".venv" / "bin" / "python"
    subprocess.run([python, "-c", "import hello"], check=True)

    shutil.rmtree(machine.wheels)  # from here on nothing could be installed
    second = machine.make()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")

    # From the activated environment, the Python behind it is taken, not the one to be replaced.
    machine.variables["PATH"] = f"{python.parent}{os.pathsep}{machine.commands}"
    assert machine.make().stdout == ""
    (machine.checkout / ".venv" / "complete").unlink()  # as an interrupted installation leaves it
    assert "Making .venv" in machine.make().stdout


def test_an_interrupted_installation_says_so_and_is_not_taken_for_a_finished_one(machine):
    machine.offers(machine.wheel("uv"))
    process = subprocess.Popen(
        [PYTHON, "-I", "pipelines/environment.py"],
        cwd=machine.checkout,
        env=machine.variables | {"PATH": f"{machine.commands}{os.pathsep}{Path(PYTHON).parent}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline().startswith("Making .venv")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted; the next call starts the installation again"
    assert not (machine.checkout / ".venv" / "complete").exists()


def look_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in {
        "ROOT": "",
        "LOCK": "requirements.lock",
        "VENV": ".venv",
        "STAMP": ".venv/complete",
    }.items():
        monkeypatch.setattr(environment, name, str(folder / path))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A folder that the module looks at, whose environment is complete."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "requirements.lock").write_text("uv==1.0\n")
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    look_at(folder, monkeypatch)
    (folder / ".venv" / "complete").write_text(environment.signature())
    assert environment.complete(None)
    return folder


def test_a_changed_lock_makes_it_anew(finished):
    (finished / "requirements.lock").write_text("uv==1.1\n")
    assert not environment.complete(None)


def test_a_moved_checkout_makes_it_anew(finished, monkeypatch):
    """The scripts in .venv/bin name the folder that they were installed in."""
    moved = finished.rename(finished.with_name("elsewhere"))
    look_at(moved, monkeypatch)
    assert not environment.complete(None)


def test_a_python_that_was_removed_or_replaced_makes_it_anew(finished):
    python = finished / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(finished / "nowhere")
    assert not environment.complete(None)
    stamp = finished / ".venv" / "complete"
    python.unlink()
    python.symlink_to(PYTHON)
    assert environment.complete(None)
    stamp.write_text(stamp.read_text().replace(VERSION, "3.11.0"))
    assert not environment.complete(None)


def test_asking_for_another_python_makes_it_anew(finished, machine, monkeypatch):
    machine.disguised("other", (3, 12, 99))
    monkeypatch.setenv("PATH", str(machine.commands))
    assert not environment.complete("other")
    assert environment.complete(PYTHON)
