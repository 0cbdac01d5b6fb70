"""In which order stages start, on how much of the machine, without running any."""

import threading

import pytest

from pipelines.engine.execute import Result
from pipelines.engine.machine import Lease, Machine
from pipelines.engine.schedule import Schedule, expected, paths_to_the_end
from pipelines.graph.dag import Stage
from prosmin.common.errors import UserError
from stages.common.threads import cores

STAGES = {
    stage.name: stage
    for stage in (
        Stage("a"),
        Stage("b"),
        Stage("train", ("a",), gpus="all", threads="all"),
        Stage("short", ("train", "b")),
        Stage("long", ("train",), gpus=1),
        Stage("last", ("short", "long")),
    )
}


def order(
    machine: Machine, unchanged: set[str] = frozenset(), failing: str = "", **options
) -> list[str]:
    """The stages in the order of their start; each ends in a thread of its own."""
    begun: list[str] = []

    def submit(stage: Stage, lease: Lease | None, known: Result | None) -> None:
        begun.append(f"{stage.name}: {known.outcome}" if known else stage.name)
        result = known or Result(stage.name, "failed" if stage.name == failing else "ran", 0.0)
        threading.Thread(target=schedule.finish, args=(result, lease)).start()

    schedule = Schedule(STAGES, unchanged, machine, submit, **options)
    results = schedule.run()
    assert list(results) == list(STAGES)
    return begun


def test_the_path_to_the_end_is_the_longest_sum():
    paths = paths_to_the_end(STAGES, {"short": 2.0, "long": 30.0, "last": 3.0})
    assert paths == {"last": 3.0, "long": 33.0, "short": 5.0, "train": 34.0, "a": 35.0, "b": 6.0}


def test_a_stage_that_no_run_has_timed_takes_its_weight():
    stages = {
        "heavy": Stage("heavy", weight=8),
        "timed": Stage("timed", weight=8),
        "light": Stage("light"),
    }
    assert paths_to_the_end(stages, {"timed": 2.0}) == {"heavy": 8.0, "timed": 2.0, "light": 1.0}


def test_with_one_worker_stages_start_by_the_longest_path_to_the_end():
    machine = Machine(1, cores=2, gpus=())
    assert order(machine) == ["a", "b", "train", "short", "long", "last"]
    assert order(machine, seconds={"long": 30.0}) == ["a", "train", "long", "b", "short", "last"]


def test_what_has_failed_blocks_what_needs_it_and_what_is_unchanged_is_skipped():
    machine = Machine(1, cores=2, gpus=())
    assert order(machine, failing="train")[-3:] == [
        "short: blocked",
        "long: blocked",
        "last: blocked",
    ]
    assert order(machine, unchanged={"a", "train"})[:2] == ["a: skipped", "b"]


@pytest.mark.parametrize(
    ("workers", "count", "devices"),
    [(1, 2, ()), (2, 2, ("0", "1")), (6, 2, ("0",)), (4, 8, ("x",) * 0)],
)
def test_no_more_is_handed_out_than_there_is(workers, count, devices):
    machine = Machine(workers, cores=count, gpus=devices)
    stages = [
        Stage("one"),
        Stage("wide", threads=5),
        Stage("all", threads="all", gpus="all"),
        Stage("device", gpus=1),
    ]
    held = [(stage, lease) for stage in stages * 3 if (lease := machine.lease(stage))]
    taken = [device for _, lease in held for device in lease.gpus]
    assert len(held) <= workers and len(taken) == len(set(taken))
    assert sum(lease.threads for _, lease in held) <= max(count, workers)
    for pair in held:
        machine.release(*pair)
    whole = machine.lease(stages[2])
    assert whole == Lease(count, devices)
    assert machine.lease(stages[0]) is None


def test_cores_are_what_the_environment_says(monkeypatch):
    monkeypatch.setenv("PROSMIN_CORES", "3")
    assert cores() == 3
    monkeypatch.setenv("PROSMIN_CORES", "none")
    with pytest.raises(
        UserError, match="PROSMIN_CORES is 'none'; it must be a whole number, 1 to 4096"
    ):
        cores()


def test_the_expected_time_is_that_of_the_stages_beside_each_other():
    """By hand: a and b, then train alone on both cores, then short beside long, then last."""
    seconds = {"a": 1.0, "b": 2.0, "train": 10.0, "short": 3.0, "long": 30.0, "last": 1.0}
    two, one = Machine(2, cores=2, gpus=()), Machine(1, cores=2, gpus=())
    assert expected(STAGES, set(), two, seconds) == 2 + 10 + 30 + 1
    assert expected(STAGES, set(), one, seconds) == sum(seconds.values())
    assert expected(STAGES, {"a", "train"}, two, seconds) == 30 + 1
    assert expected(STAGES, set(STAGES), two, seconds) == 0
