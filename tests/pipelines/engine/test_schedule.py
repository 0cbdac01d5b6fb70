"""In which order stages start, on how much of the machine, without running any."""

import threading

import pytest

from pipelines.engine.execute import Result
from pipelines.engine.machine import BESIDE, Lease, Machine
from pipelines.engine.schedule import Expected, Schedule, expected, paths_to_the_end
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


@pytest.mark.parametrize(
    ("workers", "count", "devices", "ready", "threads", "gpus"),
    [
        (8, 8, "01234567", 1, [8], [8]),
        (8, 8, "01234567", 3, [2, 3, 3], [2, 3, 3]),
        (8, 8, "0", 3, [2], [1]),  # the others wait for the device
        (2, 8, "0123", 9, [4, 4], [2, 2]),  # as many as can run at a time share
        (4, 2, "", 3, [1, 1, 2], [0, 0, 0]),  # four workers on two cores
    ],
)
def test_stages_that_want_what_is_free_share_it(workers, count, devices, ready, threads, gpus):
    machine = Machine(workers, cores=count, gpus=tuple(devices))
    stage = Stage("embed", gpus="free", threads="free")
    leases = [machine.lease(stage, ready - place) for place in range(ready)]
    held = [lease for lease in leases if lease]
    assert [lease.threads for lease in held] == threads
    assert [len(lease.gpus) for lease in held] == gpus
    for lease in held:
        machine.release(stage, lease)
    assert machine.lease(stage) == Lease(count, tuple(devices))


def test_the_last_of_several_gets_all_that_is_free():
    stages = {
        stage.name: stage
        for stage in (
            Stage("first", threads="free"),
            Stage("second", threads="free"),
            Stage("later", ("first", "second"), threads="free"),
            Stage("unchanged", threads="free"),
        )
    }
    got = {}

    def submit(stage: Stage, lease: Lease | None, known: Result | None) -> None:
        got[stage.name] = lease and lease.threads
        schedule.finish(known or Result(stage.name, "ran", 0.0), lease)

    schedule = Schedule(stages, {"unchanged"}, Machine(8, cores=8, gpus=()), submit)
    schedule.run()
    assert got == {"first": 4, "second": 4, "later": 8, "unchanged": None}


GIB = 2**30
LARGE = Stage("large", memory=3 * GIB)


def test_no_more_memory_is_handed_out_than_there_is():
    machine = Machine(4, cores=4, gpus=(), memory=8 * GIB, peaks={"seen": 3 * GIB, "large": GIB})
    seen, new = Stage("seen"), Stage("new")
    first, second = machine.lease(LARGE), machine.lease(seen)
    assert first and second and not machine.lease(LARGE) and not machine.lease(seen)
    third = machine.lease(new)  # of which nothing is known
    assert third
    machine.release(seen, second)
    assert machine.lease(LARGE)
    machine.release(new, third)


def test_with_memory_for_two_of_four_workers_two_run_at_a_time():
    stages = {name: Stage(name, memory=3 * GIB) for name in "abcde"}
    machine = Machine(4, cores=4, gpus=(), memory=2 * (3 * GIB + BESIDE))
    assert expected(stages, set(), machine, dict.fromkeys(stages, 1.0)) == Expected(3.0, 6 * GIB)


def test_a_stage_that_needs_more_than_there_is_runs_alone_and_is_named():
    machine = Machine(3, cores=3, gpus=(), memory=2 * GIB, peaks={"seen": 4 * GIB})
    small, seen = Stage("small"), Stage("seen")
    lease = machine.lease(small)
    assert lease and not machine.lease(LARGE)
    machine.release(small, lease)
    alone = machine.lease(LARGE)
    assert alone and not machine.lease(small)
    machine.release(LARGE, alone)
    assert machine.lease(small)
    assert list(machine.warnings([small, LARGE, seen])) == [
        f"{name} of memory ({source}) and stages have 2.0 GiB here: it runs alone and may fail"
        for name, source in (
            ("large needs 3.0 GiB", "meta.resources.memory"),
            ("seen needs 4.0 GiB", "its last run here"),
        )
    ]


def test_the_expected_memory_is_that_of_the_stages_beside_each_other():
    """By hand: b and short need none, and a, which is up to date, takes none."""
    peaks = {"a": 9 * GIB, "train": 4 * GIB, "long": 3 * GIB, "last": 3.5 * GIB}
    stages = STAGES | {"short": Stage("short", ("train", "b"), memory=2 * GIB)}
    for workers, most in ((2, 5 * GIB), (1, 4 * GIB)):
        machine = Machine(workers, cores=2, gpus=(), memory=16 * GIB, peaks=peaks)
        assert expected(stages, {"a"}, machine, {}).memory == most


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
    assert expected(STAGES, set(), two, seconds) == Expected(2 + 10 + 30 + 1, 0)
    assert expected(STAGES, set(), one, seconds) == Expected(sum(seconds.values()), 0)
    assert expected(STAGES, {"a", "train"}, two, seconds) == Expected(30 + 1, 0)
    assert expected(STAGES, set(STAGES), two, seconds) == Expected(0, 0)
