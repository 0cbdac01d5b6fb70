"""Damaged files of every kind that a stage reads are read or refused in one sentence; ``benchmarks.mutants`` tries more of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# In a process of its own: one that has threads, as pytest's has, cannot be forked safely.
CODE = """
import json
from benchmarks import mutants, small

found = mutants.run(20, len(small.KINDS), seed=1)
print(json.dumps({"kinds": len(small.KINDS), "of": [each.kind for each in found],
                  "failed": [each for each in found if each.failed], "refused": [each.said for each in found if each.outcome == "refused"]}))
"""


@pytest.mark.timeout(300)
def test_a_damaged_file_of_each_kind_is_read_or_refused_in_one_sentence():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failed"] == []
    assert len(set(found["of"])) == found["kinds"] + 1 and len(found["refused"]) > 30
