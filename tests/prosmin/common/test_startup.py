import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource
import torch
from prosmin.common.startup import keep_freed_memory
torch.set_num_threads(1)
def work():
    return torch.ones(10 * 2**20)  # 40 MiB: more than glibc ever keeps by itself
def faults():
    for _ in range(10):
        work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
as_it_is = faults()
assert keep_freed_memory()
print(as_it_is, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_process_asks_for_no_page_twice():
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    as_it_is, kept = map(int, done.stdout.split())
    assert 2 * kept < as_it_is


def test_what_the_encoding_of_the_output_lacks_is_escaped():
    code = "from prosmin.common.startup import escape_output; escape_output(); print('ä … x')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"\xe4 \\u2026 x\n"
