"""Runs of points on a real server: silent, cancelled, deleted."""

import threading
from collections.abc import Iterator

import pytest

from pipelines.flows.server import environment
from pipelines.machines.beat import BEAT, WORKER, Beat
from pipelines.machines.watch import Watch
from prosmin.common.errors import UserError

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


# While its database is busy, the server answers 503: the client below asks again, a beat does not.
BEATS = 30


@pytest.fixture
def client(api, prefect_home) -> Iterator:
    with environment(api | {"PREFECT_HOME": str(prefect_home)}):
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            yield client


def new_run(client, state):
    from prefect import Flow

    return client.create_flow_run(Flow(lambda: None, name="point"), state=state).id


def check_often(beat, enough=lambda: False):
    for _ in range(BEATS):
        beat.check()
        if enough():
            return
    raise AssertionError("the server has not answered")


def ended(run, stopped: bool = False):
    """The state with which a wait for a run ends, with next to no patience."""
    event = threading.Event()
    if stopped:
        event.set()
    watch = Watch(0.2, print, event)
    with watch.going():
        return watch.wait(run)


def test_a_run_without_a_sign_is_given_up_and_its_point_ends_itself(client):
    from prefect.states import Running

    run = new_run(client, Running())
    client.update_flow_run_labels(run, {BEAT: 1, WORKER: "one"})
    state = ended(run)
    assert state.is_crashed() and state.message.startswith("the worker one ended (it was silent")
    assert client.read_flow_run(run).state.is_crashed()
    client.set_flow_run_state(run, Running(), force=True)  # as a worker that was only late does
    stops = []
    beat = Beat(run, 60, "one", lambda: stops.append(True))
    with pytest.raises(UserError, match="^another worker was given this point"):
        check_often(beat)
    assert stops


def test_a_run_that_the_server_has_ended_ends_its_point(client):
    from prefect.states import Cancelling, Running

    run, stops = new_run(client, Running()), []
    beat = Beat(run, 60, "one", lambda: stops.append(True))
    check_often(beat, lambda: BEAT in client.read_flow_run(run).labels)
    assert client.read_flow_run(run).labels[WORKER] == "one" and not stops
    client.set_flow_run_state(run, Cancelling())
    with pytest.raises(UserError, match=r"^the server has ended this run \(Cancelling\)$"):
        check_often(beat)
    assert stops


def test_a_sweep_that_is_stopped_cancels_what_waits_for_a_worker(client):
    from prefect.states import Scheduled

    run = new_run(client, Scheduled())
    assert ended(run, stopped=True).is_cancelled()
    assert client.read_flow_run(run).state.is_cancelled()


def test_a_run_that_is_deleted_on_the_page_is_not_waited_for(client):
    from prefect.states import Scheduled

    run = new_run(client, Scheduled())
    client.delete_flow_run(run)
    assert ended(run).message == "the run was deleted on the server"
