"""requirements.lock is complete, hashed, free of addresses, and fits pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PINNED = [
    (Requirement(line), hashes)
    for line, hashes in re.findall(r"^(\S.*?) \\\n((?:    --hash=.*\n)+)", LOCK, re.M)
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKED = ("pipeline", "onnx", "slurm", "docs", "test")
WANTED = [
    Requirement(text)
    for text in (
        *PROJECT["dependencies"],
        *(text for extra in LOCKED for text in EXTRAS[extra]),
    )
]


def test_every_line_is_a_pin_or_its_hash():
    assert all(
        re.fullmatch(r"[a-z0-9-]+==\S+( ; .+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line)
        for line in LOCK.splitlines()
    )
    assert len(PINNED) == sum(not line.startswith(" ") for line in LOCK.splitlines())


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_every_dependency_is_pinned_once_to_an_allowed_version(python, platform):
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": platform,
    }
    pins = {}
    for pin, _ in PINNED:
        if pin.marker is None or pin.marker.evaluate(machine):
            assert pin.name not in pins
            pins[pin.name] = str(pin.specifier).removeprefix("==")
    for wanted in WANTED:
        assert wanted.specifier.contains(pins[wanted.name]), f"{wanted}: run `make lock`"
