"""The options that name workers."""

import pytest

from pipelines import dashboard, sweep, worker
from pipelines.flows.local_server import names, origins
from pipelines.machines.workers import PATIENCE, Workers
from pipelines.study import __main__ as study


@pytest.mark.parametrize("program", [sweep, study])
def test_points_go_to_workers_where_a_pool_is_named(program):
    assert program.arguments(["a.yaml"]).workers is None
    given = program.arguments(["a.yaml", "--pool", "prosmin", "--queue", "h100"])
    assert given.workers == Workers(pool="prosmin", queue="h100", patience=PATIENCE)


@pytest.mark.parametrize("value", ["29", "nan"])
def test_a_patience_that_a_point_cannot_keep_is_one_sentence(value, capsys):
    with pytest.raises(SystemExit):
        sweep.arguments(["a.yaml", "--pool", "prosmin", "--patience", value])
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith(f"--patience is {value}; it must be at least 30")


def test_a_worker_has_one_slot_where_nothing_else_is_said():
    given = worker.arguments(["http://10.0.0.5:4200/api"])
    assert (given.pool, given.queue, given.remote, given.slots) == (
        "prosmin",
        "points",
        "origin",
        1,
    )
    with pytest.raises(SystemExit):
        worker.arguments([])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_the_dashboard_listens_on_an_address_that_is_named(host, capsys):
    with pytest.raises(SystemExit):
        dashboard.arguments(["--host", host])
    assert "name the one by which the workers reach it" in capsys.readouterr().err


def test_the_dashboard_listens_on_loopback_where_nothing_else_is_said():
    assert dashboard.arguments([]).host == "127.0.0.1"
    assert names("127.0.0.1") == ["127.0.0.1", "localhost"]
    assert origins("10.0.0.5", 4300) == ["http://10.0.0.5:4300"]
