import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from prosmin.common import files
from prosmin.common.errors import UserError

ROOT = str(Path(__file__).parents[3])


def test_writers_leave_only_the_whole_file(tmp_path):
    files.write_json(tmp_path / "deep" / "a.json", {"b": [1, 2.5]})
    assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {"b": [1, 2.5]}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_a_failing_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    files.write_json(target, {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(target, {"new": math.nan})
    assert files.read_json(target) == {"old": 1}


def test_csv_returns_what_was_written(tmp_path):
    files.write_csv(tmp_path / "a.csv", ["name", "value"], [["x", 1 / 3], ["y, z", 2]])
    assert files.read_csv(tmp_path / "a.csv") == [
        {"name": "x", "value": "0.333333"},
        {"name": "y, z", "value": "2"},
    ]


def test_arrays_return_with_shape_and_type_and_equal_bytes(tmp_path):
    arrays = {"b": np.arange(6, dtype=np.int64).reshape(2, 3).T, "a": np.array(2.5, np.float32)}
    files.write_arrays(tmp_path / "one", arrays)
    files.write_arrays(tmp_path / "two", dict(reversed(arrays.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    back = files.read_arrays(tmp_path / "one")
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].shape == array.shape and back[name].dtype == array.dtype


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"
    with files.whole_folder(target) as part:
        (part / "a").write_text("first")
    with pytest.raises(KeyboardInterrupt), files.whole_folder(target) as part:
        (part / "b").write_text("second")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in target.iterdir()] == ["a"]
    with files.whole_folder(target) as part:
        (part / "c").write_text("third")
    assert [path.name for path in target.iterdir()] == ["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("value", "kept"), [(0.123456789, 0.123457), (1234567.0, 1234570.0), (0.0, 0.0)]
)
def test_rounding_keeps_six_significant_digits(value, kept):
    assert files.rounded(value) == kept


def killed(folder, code, renames):
    """Run ``code`` in ``folder``, in a process that is killed when it renames for the ``renames``-th time; its number."""
    kill = (
        "import os, signal\nrename, left = os.replace, [{}]\n"
        "def replace(*names):\n"
        "    left[0] -= 1\n"
        "    return rename(*names) if left[0] else os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = replace\nfrom prosmin.common.files import *\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", kill.format(renames) + code], cwd=folder, env={"PYTHONPATH": ROOT}
    )
    assert process.wait() == -signal.SIGKILL
    return process.pid


WHOLE = "with whole_folder('out') as part: (part / 'a').write_text('new')"


def test_what_a_killed_process_has_left_is_removed_by_the_next_that_writes_there(tmp_path):
    pid = killed(tmp_path, "write_text('a.txt', 'half')", 1)
    assert [path.name for path in tmp_path.iterdir()] == [f".a.txt.{pid}.part"]
    (tmp_path / ".mine.txt").touch()
    alive = tmp_path / f".c.txt.{os.getpid()}.part"
    alive.touch()
    files.write_text(tmp_path / "b.txt", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, ".mine.txt", "b.txt"]


@pytest.mark.parametrize(("renames", "there"), [(1, True), (2, False)])
def test_a_folder_that_was_being_replaced_is_put_back(tmp_path, renames, there):
    with files.whole_folder(tmp_path / "out") as part:
        (part / "a").write_text("old")
    killed(tmp_path, WHOLE, renames)
    assert (tmp_path / "out").exists() == there and len(list(tmp_path.iterdir())) == 2
    assert len(files.recover(tmp_path)) == (1 if there else 2)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "old"


def test_a_process_that_began_later_or_is_a_zombie_is_not_the_one_that_wrote():
    other = subprocess.Popen(["sleep", "60"])
    try:
        assert files.running(other.pid, time.time())
        assert not files.running(other.pid, time.time() - 10)
    finally:
        other.kill()
    until = time.monotonic() + 30
    while (
        files.running(other.pid, time.time()) and time.monotonic() < until
    ):  # until it is a zombie
        time.sleep(0.01)
    assert not files.running(other.pid, time.time())
    other.wait()


# --- damaged files ----------------------------------------------------------------------------------

JSON = {
    "cut short": (b'{"trained": {"accuracy": 0.9', "Expecting"),
    "empty": (b"", "Expecting value"),
    "no text": (b"\xff\xfe\x00", "codec can't decode"),
    "not a number": (b'{"trained": {"accuracy": NaN}}', "'NaN' is no finite number"),
    "past a float": (b'{"trained": {"accuracy": 1e999}}', "'1e999' is no finite number"),
    "past Python": (b'{"trained": {"accuracy": ' + b"9" * 9000 + b"}}", "Exceeds the limit"),
    "nested": (b"[" * 100_000, "maximum recursion depth exceeded"),
    "a list": (b"[1]", "it holds no metrics"),
    "a section is a number": (b'{"trained": 5}', "'trained' is 5, where a section is needed"),
    "a number is text": (
        b'{"trained": {"accuracy": "x"}}',
        "'accuracy' is 'x', where a number is needed",
    ),
    "a number is a section": (
        b'{"trained": {"a": {}}, "random": {"a": 1}}',
        "'a' is 1, where a section is needed",
    ),
}


@pytest.mark.parametrize("case", JSON)
def test_damaged_metrics_are_one_sentence_with_the_file_and_what_to_do(tmp_path, case):
    content, why = JSON[case]
    (tmp_path / "knn.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        files.read_metrics(tmp_path / "knn.json")
    said = str(error.value)
    assert said.startswith(f"{tmp_path}/knn.json cannot be read (") and why in said
    assert said.endswith("; remove it and run `dvc repro`") and "\n" not in said


def test_a_key_that_a_json_file_lacks_is_a_sentence_and_no_key_error(tmp_path):
    files.write_json(tmp_path / "a.json", {"trained": {"accuracy": 0.5}})
    content = files.read_json(tmp_path / "a.json")
    with pytest.raises(
        UserError,
        match=r"a.json cannot be read \(it has no 'ece'\); remove it and run `dvc repro`$",
    ):
        content["trained"]["ece"]
    assert content["trained"].get("ece") is None and "ece" not in content["trained"]


@pytest.fixture
def arrays(tmp_path):
    files.write_arrays(
        tmp_path / "a.safetensors", {"x": np.zeros((3, 2), np.float32), "y": np.zeros(3, np.int64)}
    )
    return tmp_path / "a.safetensors"


HARM = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[:-1],
    "a length that lies": lambda content: (2**63).to_bytes(8, "little") + content[8:],
    "no JSON": lambda content: content[:8] + b"[" + content[9:],
    "no such type": lambda content: content.replace(b'"F32"', b'"F3x"'),
    "a type that NumPy lacks": lambda content: content.replace(
        b'"I64","shape":[3],', b'"F8_E4M3","shape":[24],'
    ).replace(content[:8], (int.from_bytes(content[:8], "little") + 6).to_bytes(8, "little"), 1),
    "a shape that lies": lambda content: content.replace(b"[3,2]", b"[3,9]"),
    "a shape past memory": lambda content: content.replace(b"[3,2]", b"[9e9]"),
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("read", [files.read_arrays, files.read_tensors])
def test_damaged_arrays_are_one_sentence(arrays, harm, read):
    arrays.write_bytes(HARM[harm](arrays.read_bytes()))
    if read is files.read_tensors and "NumPy" in harm:
        return  # which torch has
    with pytest.raises(
        UserError, match=r"a.safetensors .*; remove it and run `dvc repro`$"
    ) as error:
        read(arrays)
    assert "\n" not in str(error.value)


def test_arrays_of_other_names_types_and_shapes_are_one_sentence(arrays):
    found = files.read_arrays(arrays)
    found.check({"x": ("float32", "NF"), "y": ("int64", "N")})
    for wanted, why in [
        ({"z": ("float32", "N")}, "it has no 'z'"),
        ({"x": ("float64", "NF")}, r"'x' is float32 \[3, 2\] where float64 \[N, F\] is needed"),
        ({"x": ("float32", "N")}, r"'x' is float32 \[3, 2\] where float32 \[N\] is needed"),
        (
            {"x": ("float32", "FN"), "y": ("int64", "N")},
            r"'y' is int64 \[3\] where int64 \[N\] is needed",
        ),
        ({"x": ("float32", "N1")}, r"'x' is float32 \[3, 2\] where float32 \[N, 1\] is needed"),
    ]:
        with pytest.raises(UserError, match=rf"a.safetensors cannot be read \({why}\)"):
            found.check(wanted)


def test_a_row_that_is_too_short_or_too_long_is_one_sentence(tmp_path):
    for row in ("1", "1,2,3"):
        (tmp_path / "a.csv").write_text(f"x,y\n{row}\n")
        with pytest.raises(UserError, match="a.csv cannot be read .a row has more or fewer cells"):
            files.read_csv(tmp_path / "a.csv")
