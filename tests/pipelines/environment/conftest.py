"""A machine that lacks what a test takes away: a checkout and a PATH of its own.

The checkout has blanks in its path. The real lock is installed by .ci/run; here pip installs two
small wheels made on the spot.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
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
