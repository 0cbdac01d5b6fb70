import dataclasses
import resource

import numpy as np
import pytest

from prosmin.common import files
from prosmin.training import checkpoint
from prosmin.training.checkpoint import Checkpoints

ARRAYS = {
    "model.weight": np.arange(600, dtype=np.float32),
    "optimizer.0.step": np.float32(3),
    "epoch": np.zeros((1, 0)),
}


@pytest.fixture
def run(tmp_path):
    return Checkpoints(tmp_path, "a" * 16, every=0)


def save(run, *steps):
    for step in steps:
        assert run.save(step, ARRAYS, {"step": step, "loss": [0.1, 1 / 3]})


def newest(run):
    latest = run.newest()
    return latest and checkpoint.parse(latest[1])[1]["step"]


def test_a_state_reads_back_to_the_bit(run):
    save(run, 7)
    path, content = run.newest()
    arrays, facts = checkpoint.parse(content)
    assert path == run.path(7) and facts == {"step": 7, "loss": [0.1, 1 / 3]}
    assert set(arrays) == set(ARRAYS)
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype and array.shape == ARRAYS[name].shape
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_the_two_newest_are_kept_and_the_newest_is_read(run):
    save(run, 5, 9, 10, 200)
    assert [path.name for path in sorted(run.folder.iterdir())] == [
        run.path(10).name,
        run.path(200).name,
    ]
    assert newest(run) == 200


def test_there_is_nothing_to_go_on_from_at_first_and_after_the_end(run):
    assert run.newest() is None
    save(run, 1)
    run.finish()
    assert run.newest() is None and not run.folder.exists()


HARM = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[:-1],
    "cut in the head": lambda content: content[:50],
    "a bit flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "a pickle": lambda content: b"\x80\x04K\x01.",
    "another run's": lambda content: content.replace(b"a" * 16, b"b" * 16),
    "other facts": lambda content: content.replace(b"[0.1, ", b"[9.1, "),
    "other arrays": lambda content: content.replace(b"model.weight", b"model.height"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_or_foreign_state_is_said_in_a_sentence_and_the_one_before_it_is_read(
    run, harm, caplog
):
    save(run, 1, 2)
    content = HARM[harm](run.path(2).read_bytes())
    run.path(2).write_bytes(content)
    assert newest(run) == 1
    (record,) = caplog.records
    assert (
        f"{run.path(2)} is passed over and put aside as step-000000002.damaged: it"
        in record.message
    )
    assert "\n" not in record.message
    assert run.path(2).with_suffix(".damaged").read_bytes() == content  # nothing is lost
    save(run, 2)
    assert newest(run) == 2


def test_the_arrays_of_another_program_are_passed_over(run, caplog):
    files.write_arrays(run.path(1), ARRAYS)
    assert run.newest() is None and "not a whole checkpoint" in caplog.text


def test_a_full_disk_costs_one_checkpoint_and_says_so(run, caplog):
    save(run, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        assert not run.save(2, ARRAYS, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (record,) = caplog.records
    assert "step 2 cannot be written" in record.message and "File too large" in record.message
    assert "the last good checkpoint is step-000000001.safetensors" in record.message
    assert [path.name for path in run.folder.iterdir()] == [run.path(1).name]
    save(run, 3)
    assert newest(run) == 3


def test_a_folder_that_cannot_be_made_costs_checkpoints_not_the_run(tmp_path, caplog):
    (tmp_path / "root").write_text("a file")
    run = Checkpoints(tmp_path / "root", "a" * 16)
    assert not run.save(1, ARRAYS, {})
    assert "there is none yet" in caplog.text and run.newest() is None


def test_what_a_kill_left_half_written_is_removed(run):
    save(run, 1)
    (run.folder / ".step-000000002.safetensors.77.part").write_bytes(b"half")
    assert newest(run) == 1
    assert [path.name for path in run.folder.iterdir()] == [run.path(1).name]


def test_other_runs_are_kept_up_to_a_number(tmp_path):
    for number in range(checkpoint.KEPT_RUNS + 3):
        save(Checkpoints(tmp_path, f"{number:016}"), 1)
    own = Checkpoints(tmp_path, f"{0:016}")
    own.prune_runs()
    left = sorted(folder.name for folder in tmp_path.iterdir())
    assert left == [f"{number:016}" for number in (0, *range(3, checkpoint.KEPT_RUNS + 3))]


def test_it_is_due_by_time_sooner_at_the_end_of_an_epoch_and_less_often_where_writing_is_slow(
    tmp_path, monkeypatch
):
    now = 1000.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    run = Checkpoints(tmp_path, "a" * 16, every=60)
    for passed, inside, at_end in [
        (9, False, False),
        (11, False, True),
        (59, False, True),
        (61, True, True),
    ]:
        now = 1000.0 + passed
        assert (run.due(False), run.due(True)) == (inside, at_end)

    def slow(*_):
        nonlocal now
        now += 4.0

    monkeypatch.setattr(files, "write_arrays", slow)
    run.save(1, {}, {})
    now += 150
    assert not run.due(True)
    now += 60
    assert run.due(True) and run.due(False)


@dataclasses.dataclass
class Facts:
    rate: float


def test_the_key_changes_with_every_fact_and_with_the_code(monkeypatch):
    keys = [
        checkpoint.key(seed=0, settings=Facts(0.1)),
        checkpoint.key(seed=1, settings=Facts(0.1)),
        checkpoint.key(seed=0, settings=Facts(0.2)),
        checkpoint.key(seed=0, settings=Facts(0.1), more=None),
    ]
    again = checkpoint.key(settings=Facts(0.1), seed=0)
    monkeypatch.setattr(checkpoint, "_code", lambda: "edited")
    keys.append(checkpoint.key(seed=0, settings=Facts(0.1)))
    monkeypatch.setattr(checkpoint, "version", lambda name: f"{name} of tomorrow")
    keys.append(checkpoint.key(seed=0, settings=Facts(0.1)))
    assert again == keys[0] and len(set(keys)) == 6
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)


def test_a_run_borrows_the_newest_state_of_a_run_like_it_that_lends(tmp_path):
    def other(key, like, lent):
        return Checkpoints(tmp_path, key, every=0, like=like, lent=lent)

    mine = other("m" * 16, "like", False)
    assert mine.borrowed() is None
    save(other("a" * 16, "like", False), 9)  # keeps its own
    save(other("b" * 16, "unlike", True), 8)
    assert mine.borrowed() is None
    lender = other("c" * 16, "like", True)
    save(lender, 3, 4)
    lender.path(4).write_bytes(lender.path(4).read_bytes()[:-9])
    path, content = mine.borrowed()
    assert path == lender.path(3) and checkpoint.parse(content)[1]["step"] == 3
    save(mine, 5)  # which lends now, too
    assert other("d" * 16, "like", False).borrowed()[0] == mine.path(5)
    assert Checkpoints(tmp_path, "e" * 16).borrowed() is None
    mine.finish()
    assert not mine.folder.exists() and not lender.folder.exists()
