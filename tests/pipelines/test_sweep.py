"""Four points, two at a time, one of them wrong: three results, one clear failure."""

import pytest

from pipelines.flows.sweep_flow import ending
from tests.pipelines.flows.test_grid import RANK

SWEEP = f"""
grid: {{pretrain.batch_size: [64, 32, -1, 128]}}
rank: {RANK}
show: [metrics/leaf/two.json:trained.accuracy]
stages: [leaf@one, leaf@two]
"""


def test_points_that_were_stopped_early_do_not_fail_a_sweep():
    why = "pretrain failed: stopped early after epoch 3: rankme is 1.2, below 2 (pretrain.stop_be"
    ended = ending(3, {"one": why})
    assert ended.is_completed() and ended.message == "2 of 3 points done; stopped early: one"
    broken = ending(3, {"one": why, "two": "no such key"})
    assert broken.is_failed() and broken.message.endswith("stopped early: one; failed: two")


@pytest.mark.integration
@pytest.mark.timeout(200)
def test_points_that_fail_fail_alone_and_the_rest_is_ranked(project):
    project.run("dvc", "repro", "-q")
    project.commit()
    (project.folder.parent / "sizes.yaml").write_text(SWEEP)
    said = project.run("pipelines.sweep", "../sizes.yaml", "--slots", "2", expect=1)
    ranked = [
        line.split()
        for line in said.splitlines()
        if line.startswith("sizes-") and ":" not in line.split()[0]
    ]
    values = [float(row[2]) for row in ranked[:3]]
    assert len(ranked) == 4 and values == sorted(values, reverse=True)
    assert (
        " ".join(ranked[3])
        == "sizes-2 -1 params.yaml: pretrain.batch_size is -1; it must be at least 2"
    )
    header = next(line for line in said.splitlines() if line.startswith("experiment"))
    assert "leaf/one: trained.accuracy" in header and "leaf/two: trained.accuracy" in header
    assert all(row[2] != row[3] for row in ranked[:3])  # each file under its own name
    assert said.splitlines()[-1] == "3 of 4 points done; failed: sizes-2"
    listed = project.run("dvc", "exp", "list", "--name-only").split()
    assert sorted(listed) == [f"sizes-{place}" for place in (0, 1, 3)]
    assert project.git("status", "--short") == ""
    # The same sweep once more tries the failed point alone.
    again = project.run("pipelines.sweep", "../sizes.yaml", expect=1)
    assert [
        line.split(":")[0]
        for line in again.splitlines()
        if line.startswith("sizes-") and ":" in line.split()[0]
    ] == ["sizes-2"]
