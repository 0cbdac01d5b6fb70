"""Points as jobs of a real cluster of Slurm with one node."""

import contextlib
import re

import pytest

from pipelines import sweep
from pipelines.machines.slurm import Slurm
from pipelines.machines.workers import Cluster
from prosmin.common.errors import UserError
from tests.pipelines import slurm_cluster
from tests.pipelines.flows.test_grid import RANK
from tests.pipelines.projects import ROOT, until

SWEEP = f"""
grid: {{pretrain.epochs: [777, -1]}}
rank: {RANK}
stages: [leaf@one]
"""


def test_points_go_to_a_cluster_where_its_options_are_given():
    given = sweep.arguments(["a.yaml", "--slurm", "time=240", "partition=short"])
    assert given.workers == Cluster(options={"time": 240, "partition": "short"})
    assert sweep.arguments(["a.yaml", "--slurm"]).workers == Cluster(options={})
    assert sweep.arguments(["a.yaml"]).workers is None


@pytest.mark.parametrize(
    "given, why",
    [
        (["--slurm", "time"], "--slurm has time; it must be KEY=VALUE, as time=240"),
        (["--slurm", "--pool", "prosmin"], "name one of them"),
    ],
)
def test_an_option_that_is_none_is_one_sentence(given, why, capsys):
    with pytest.raises(SystemExit):
        sweep.arguments(["a.yaml", *given])
    assert capsys.readouterr().err.splitlines()[-1].endswith(why)


def test_a_job_has_known_options_alone(tmp_path, monkeypatch):
    commands = tmp_path / "bin"
    commands.mkdir()
    monkeypatch.setenv("PATH", str(commands))
    with contextlib.chdir(tmp_path):
        with pytest.raises(UserError, match="^--slurm needs Slurm's commands"):
            Slurm("", {}, 1, print)
        (commands / "srun").write_text("#!/bin/sh\n")
        (commands / "srun").chmod(0o755)
        with pytest.raises(UserError, match=r"partitoin=gpu, which .*did you mean 'partition'"):
            Slurm("", {"partitoin": "gpu"}, 1, print)


@pytest.mark.integration
@pytest.mark.machines
@pytest.mark.timeout(400)
@pytest.mark.skipif(bool(reason := slurm_cluster.reason()), reason=reason)
def test_a_sweep_is_an_array_and_a_job_that_is_sent_back_runs_again(project, tmp_path):
    for name in ("pipelines", "prosmin", "stages"):
        (project.folder / name).symlink_to(ROOT / name)
    (project.folder / "epochs.yaml").write_text(SWEEP)
    project.commit()
    for name in ("name", "email"):
        project.git("config", f"user.{name}", "test@example.org")

    def begun() -> int:
        """How often the first point has come to its stage, which waits."""
        return sum(line["stage"] == "middle" and "begin" in line for line in project.recorded())

    with contextlib.ExitStack() as until_then:
        variables = until_then.enter_context(slurm_cluster.cluster(tmp_path / "cluster"))
        command = ("-m", "pipelines.sweep", "epochs.yaml", "--slurm", "time=20", "--slots", "2")
        process = project.start(*command, **variables)
        until_then.callback(process.kill)
        until(lambda: begun() == 1, 200)
        running = ("squeue", "-h", "-r", "-o", "%i", "-t", "RUNNING")
        (first,) = filter(
            lambda job: job.endswith("_0"), slurm_cluster.asked(*running, **variables).split()
        )
        kept = project.folder / ".prosmin/points/epochs-0"
        assert kept.is_dir()
        slurm_cluster.asked("scontrol", "requeue", first, **variables)
        until(lambda: begun() == 2, 200)
        process.kill()  # its jobs run on, and the same sweep waits for them
        process.communicate()
        process = project.start(*command, **variables)
        until_then.callback(process.kill)
        until(lambda: (project.folder / ".prosmin/slurm/epochs-1.json").exists(), 100)
        project.go()
        output, errors = process.communicate(timeout=200)
    said = output + errors
    assert process.returncode == 1, said
    assert output.splitlines()[-1] == "1 of 2 points done; failed: epochs-1", said
    assert "epochs-1: params.yaml: pretrain.epochs is -1; it must be at least 1" in output
    array = r"^1 point\(s\) are the array \d+ of Slurm: squeue -j \d+$"
    assert re.search(array, errors, re.M), said
    assert begun() == 2, said  # not begun again by the second sweep
    assert project.run("dvc", "exp", "list", "--name-only").split() == ["epochs-0"]
    assert not kept.exists() and not list((project.folder / ".prosmin/experiments").iterdir())
