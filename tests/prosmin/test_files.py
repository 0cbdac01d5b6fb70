import json
import math

import numpy as np
import pytest

from prosmin import files


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
    assert files.read_csv(tmp_path / "a.csv") == [{"name": "x", "value": "0.333333"}, {"name": "y, z", "value": "2"}]


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


@pytest.mark.parametrize(("value", "kept"), [(0.123456789, 0.123457), (1234567.0, 1234570.0), (0.0, 0.0)])
def test_rounding_keeps_six_significant_digits(value, kept):
    assert files.rounded(value) == kept
