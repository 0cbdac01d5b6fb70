"""A malformed dataset is one sentence, and nothing is half-written."""

import os
from pathlib import Path

import pytest

from tests.stages.fetch import folders, tables  # noqa: F401 (they register their cases)
from tests.stages.fetch.made import GOOD, configure, start, start_process
from tests.stages.fetch.malformed import MALFORMED


def assert_one_clear_error(text: str, message: str) -> None:
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0], text
    assert "mine" in lines[0]
    assert "Traceback" not in text


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_dataset_is_one_clear_error_and_leaves_what_was_there(
    workspace, monkeypatch, capsys, case
):
    settings, make, message = MALFORMED[case]
    make()
    configure(settings)
    Path("data/mine").mkdir(parents=True)
    Path("data/mine/manifest.json").write_text("fetched before")
    assert start(monkeypatch, "mine") == 2
    assert_one_clear_error(capsys.readouterr().err, message)
    assert os.listdir("data") == ["mine"] and os.listdir("data/mine") == ["manifest.json"]
    assert Path("data/mine/manifest.json").read_text() == "fetched before"
    assert not Path("metrics").exists()


@pytest.mark.parametrize(
    "case", ["missing_folder", "truncated_image", "float_labels", "hub_dataset_out_of_reach"]
)
def test_a_process_given_a_malformed_dataset_exits_with_2_and_leaves_nothing(workspace, case):
    settings, make, message = MALFORMED[case]
    make()
    configure(settings)
    done = start_process("mine")
    assert done.returncode == 2 and not done.stdout
    assert_one_clear_error(done.stderr, message)
    assert not Path("data").exists() or not os.listdir("data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one dataset: python -m stages.fetch NAME, where NAME is one of digits, "),
        (("digits", "patches"), "name one dataset"),
        (("digit",), "fetch of params.yaml names no dataset 'digit'; there are: digits, "),
        (("mien",), "(did you mean 'mine'?)"),
        (("../mine",), "names no dataset '../mine'"),
    ],
)
def test_the_dataset_must_be_one_of_those_in_params(
    workspace, monkeypatch, capsys, arguments, message
):
    configure(GOOD)
    assert start(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("data").exists()
