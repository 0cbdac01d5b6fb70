"""Entries of dvc.lock: their order, and what is not text."""

from pathlib import Path

import pytest
import yaml

from pipelines.graph import lockfile


def test_entries_of_the_lock_keep_their_text_and_take_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = {
        name: f"  {key}:\n    cmd: x {name}\n    deps:\n    - path: b\n"
        for name, key in (("a", "a"), ("b@1", "b@1"), ("c: d", "'c: d'"))
    }
    Path("dvc.lock").write_text(
        "schema: '2.0'\nstages:\n" + blocks["c: d"] + blocks["b@1"] + blocks["a"]
    )
    lockfile.restore_order({Path("dvc.lock"): ["b@1", "gone"]}, ["a", "b@1", "c: d", "never ran"])
    assert (
        Path("dvc.lock").read_text()
        == "schema: '2.0'\nstages:\n" + blocks["b@1"] + blocks["a"] + blocks["c: d"]
    )


def test_the_order_of_a_run_that_was_killed_is_known_to_the_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = "  {}:\n    cmd: python {}\n"

    def write(names):
        Path("dvc.lock").write_text(
            lockfile.HEAD + "".join(entry.format(name, name) for name in names)
        )

    def names():
        return list(yaml.safe_load(Path("dvc.lock").read_text())["stages"])

    stages = ["one", "two", "three", "four"]
    write(["two"])
    before = lockfile.snapshot(stages)
    write(["two", "four", "one"])  # killed when these two had ended
    assert lockfile.snapshot(stages) == before == lockfile.noted() == {Path("dvc.lock"): ["two"]}
    write(["two", "four", "one", "three"])
    lockfile.restore_order(before, stages)
    assert names() == ["two", "one", "three", "four"]
    lockfile.forget()
    assert lockfile.noted() == {} and lockfile.snapshot(stages) == {Path("dvc.lock"): names()}


@pytest.mark.parametrize(
    ("place", "kept"), [(b"stages:", ["one", "two"]), (b"work.py one", ["two"])]
)
def test_bytes_of_a_lock_that_are_no_text_are_taken_out(tmp_path, monkeypatch, place, kept):
    monkeypatch.chdir(tmp_path)
    entry = (
        "  {0}:\n    cmd: python work.py {0}\n    outs:\n"
        "    - path: results/{0}\n      hash: md5\n      md5: {1}\n      size: 3\n"
    )
    text = (
        "schema: '2.0'\nstages:\n" + entry.format("one", "0" * 32) + entry.format("two", "1" * 32)
    )
    Path("dvc.lock").write_bytes(text.encode().replace(place, place[:3] + b"\xff" + place[4:]))
    assert len(list(lockfile.mend())) == 1
    assert [name for name, _ in lockfile._split(Path("dvc.lock").read_text())[1]] == kept and list(
        lockfile.mend()
    ) == []


@pytest.mark.parametrize("value", ["2026-13-45", "!!int ''", "!!bool x", "!!timestamp x"])
def test_an_entry_with_a_value_that_yaml_cannot_read_is_taken_out(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    entry = "  {}:\n    cmd: python work.py\n    params:\n      params.yaml:\n        seed: {}\n"
    Path("dvc.lock").write_text(lockfile.HEAD + entry.format("one", value) + entry.format("two", 1))
    (line,) = lockfile.mend()
    assert line.endswith("what was not whole: one")
    assert list(yaml.safe_load(Path("dvc.lock").read_text())["stages"]) == ["two"]
