"""What a point takes from whoever may start runs on the server."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
COMMIT = "a" * 40
GIVEN = {"name": "one", "sweep": "sizes", "snapshot": COMMIT, "changes": {}}
REFUSED = [
    (
        {"snapshot": "--output=x"},
        "snapshot is '--output=x'; it must be the full id of a commit",
    ),
    ({"snapshot": f"{COMMIT}+../x"}, "it must be the full id of a commit"),
    ({"name": "../x"}, "'../x' cannot be the name of an experiment"),
    ({"sweep": "a/../../heads/main"}, "cannot be the name of an experiment"),
]
# A process of its own: a flow leaves threads of Prefect behind, and the processes that a DataLoader
# forks from such a process end with an error.
RUNS = """
import json, sys
from pipelines.machines.point_flow import run_point
states = [run_point(**given, return_state=True) for given in json.load(sys.stdin)]
print(json.dumps([[state.is_failed(), state.message] for state in states]))
"""


def test_a_name_that_git_or_the_disk_would_read_otherwise_is_refused(api, prefect_home, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", RUNS],
        input=json.dumps([GIVEN | changed for changed, _ in REFUSED]),
        env={**os.environ, **api, "PREFECT_HOME": str(prefect_home), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    states = json.loads(run.stdout.splitlines()[-1])
    for (changed, why), (failed, message) in zip(REFUSED, states, strict=True):
        assert failed and why in message, changed
    assert list(tmp_path.rglob("*")) == [tmp_path / ".prosmin"]  # an empty folder
