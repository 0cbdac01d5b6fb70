"""Where benchmarks store their figures, and the facts about the machine stored with them."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prosmin.common.files import write_json

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Hardware, system and Python of this machine; ``cores`` are those that the process may use."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.partition(": ")[2] for line in lines if line.startswith("model name")), model
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model,
        "cores": cores,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def keep(name: str, packages: Sequence[str], figures: dict[str, Any]) -> dict[str, Any]:
    """Write figures to benchmarks/results/<name>.json, and return what was written.

    packages: whose versions are stored with the figures and the machine.
    """
    content = {
        "machine": machine(),
        "versions": {package: version(package) for package in packages},
        **figures,
    }
    write_json(RESULTS / f"{name}.json", content)
    return content


def record(name: str, packages: Sequence[str], figures: dict[str, Any]) -> None:
    """Store figures as ``keep`` does, and print them."""
    print(json.dumps(keep(name, packages, figures), indent=2))
    print(f"written to {RESULTS / name}.json", file=sys.stderr)
