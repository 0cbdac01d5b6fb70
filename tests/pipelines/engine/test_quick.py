"""DVC with the habits that ``pipelines.engine.quick`` changes leaves what DVC leaves, and waits for a lock as DVC does."""

import subprocess
import sys
import threading

import dvc.dvcfile
import dvc.lock
import pytest

from pipelines.engine import quick
from tests.pipelines.conftest import ROOT, Project
from tests.pipelines.flows.test_graph_flow import CHANGES, FORCED, set_param

ODD = """
  odd:
    cmd: python -c "open('results/odd é', 'w').write('a value that is longer than the eighty columns of a line of YAML, so that it is folded')"
    wdir: .
    params: [seed, knn, "pretrain.encoder"]
    outs: ["results/odd é"]
  nothing: {cmd: python -c pass, always_changed: true}
  alias:
    foreach: [one, other]
    do:
      cmd: python -c "open('results/alias-${item}', 'w').write('${item}')"
      params: [same, again]
      outs: ["results/alias-${item}"]
"""


@pytest.mark.integration
@pytest.mark.timeout(200)
def test_it_leaves_what_dvc_leaves(tmp_path):
    left = []
    for module in ("dvc", "pipelines.engine.quick"):
        project = Project(tmp_path / module / "a project", {})
        with open(project.folder / "dvc.yaml", "a") as graph:
            graph.write(ODD)
        with open(project.folder / "params.yaml", "a") as params:
            params.write("same: &same {a: [1, 2]}\nagain: *same\n")
        left.append([])
        for change, force in zip(CHANGES, FORCED, strict=True):
            set_param(project.folder, *change)
            project.run(module, "repro", *force)
            left[-1].append(project.left())
        assert b"odd" in left[-1][0]["dvc.lock"]
    assert left[0] == left[1]


@pytest.fixture
def changed(monkeypatch):
    monkeypatch.setattr(dvc.lock.Lock, "lock", dvc.lock.Lock.lock)  # as it is again after the test
    monkeypatch.setattr("dvc.dvcfile.Lockfile.dump_stages", dvc.dvcfile.Lockfile.dump_stages)
    quick.apply()


HOLD = "import sys, zc.lockfile; held = zc.lockfile.LockFile(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def test_a_lock_that_is_held_is_waited_for_or_given_up(tmp_path, monkeypatch, changed):
    path = str(tmp_path / "lock")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert holder.stdout.readline() == "held\n"
    monkeypatch.setattr(dvc.lock, "DEFAULT_TIMEOUT", 0.1)
    with pytest.raises(dvc.lock.LockError):
        dvc.lock.Lock(path).lock()
    waiting = dvc.lock.Lock(path, wait=True)
    thread = threading.Thread(target=waiting.lock)
    thread.start()
    assert not waiting.is_locked
    holder.communicate()
    thread.join(timeout=30)
    assert waiting.is_locked
    waiting.unlock()


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
from dvc.cli import main
from pipelines.engine import quick
quick.apply()
sys.exit(main(["repro"]))
"""


@pytest.mark.integration
def test_where_dvc_cannot_copy_it_says_why(tmp_path):
    """A file may grow to a megabyte, which is a disk that is full for whoever writes more."""
    project = Project(tmp_path / "a project", {})
    stage = "  big: {cmd: head -c 3000000 /dev/zero > big, deps: [work.py], outs: [big]}\n"
    (project.folder / "dvc.yaml").write_text(f"stages:\n{stage}")
    project.run("pipelines.engine.quick", "repro")
    (project.folder / "big").unlink()
    run = project.start("-c", LIMITED)
    said = run.communicate(timeout=100)[1]
    assert run.returncode and f"cannot write '{project.folder / 'big'}': File too large" in said
    assert "No possible cache link types" not in said
    project.run("pipelines.engine.quick", "repro")
    assert (project.folder / "big").stat().st_size == 3_000_000
