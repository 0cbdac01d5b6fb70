"""JSON, metrics and CSV come back as written, and damaged ones are one sentence."""

import pytest

from prosmin.common import files
from prosmin.common.errors import UserError

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


def test_csv_returns_what_was_written(tmp_path):
    files.write_csv(tmp_path / "a.csv", ["name", "value"], [["x", 1 / 3], ["y, z", 2]])
    assert files.read_csv(tmp_path / "a.csv") == [
        {"name": "x", "value": "0.333333"},
        {"name": "y, z", "value": "2"},
    ]


@pytest.mark.parametrize(
    ("value", "kept"), [(0.123456789, 0.123457), (1234567.0, 1234570.0), (0.0, 0.0)]
)
def test_rounding_keeps_six_significant_digits(value, kept):
    assert files.rounded(value) == kept


@pytest.mark.parametrize("case", JSON)
def test_damaged_metrics_are_one_sentence_with_the_file_and_what_to_do(tmp_path, case):
    content, why = JSON[case]
    (tmp_path / "knn.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        files.read_metrics(tmp_path / "knn.json")
    said = str(error.value)
    assert said.startswith(f"{tmp_path}/knn.json cannot be read (") and why in said
    assert said.endswith("; remove it and make it again") and "\n" not in said


def test_a_key_that_a_json_file_lacks_is_a_sentence_and_no_key_error(tmp_path):
    files.write_json(tmp_path / "a.json", {"trained": {"accuracy": 0.5}})
    content = files.read_json(tmp_path / "a.json")
    with pytest.raises(
        UserError,
        match=r"a.json cannot be read \(it has no 'ece'\); remove it and make it again$",
    ):
        content["trained"]["ece"]
    assert content["trained"].get("ece") is None and "ece" not in content["trained"]


def test_a_row_that_is_too_short_or_too_long_is_one_sentence(tmp_path):
    for row in ("1", "1,2,3"):
        (tmp_path / "a.csv").write_text(f"x,y\n{row}\n")
        with pytest.raises(UserError, match="a.csv cannot be read .a row has more or fewer cells"):
            files.read_csv(tmp_path / "a.csv")
