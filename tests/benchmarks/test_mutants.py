"""A damaged file of each kind is read or refused; ``benchmarks.trust.mutants`` tries more files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Run in another process: pytest has threads, and a process with threads cannot be forked safely.
CODE = """
import json
from benchmarks.trust import small
from benchmarks.trust import mutants

tried = mutants.run(20, len(small.KINDS), seed=1)
refused = [mutant.said for mutant in tried if mutant.outcome == "refused"]
print(json.dumps({"kinds": len(small.KINDS), "of": [mutant.kind for mutant in tried],
                  "failed": [mutant for mutant in tried if mutant.failed], "refused": refused}))
"""


@pytest.mark.timeout(300)
def test_a_damaged_file_of_each_kind_is_read_or_refused_in_one_sentence():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["failed"] == []
    assert len(set(summary["of"])) == summary["kinds"] + 1 and len(summary["refused"]) > 30
