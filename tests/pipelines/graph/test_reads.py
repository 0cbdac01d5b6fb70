"""Entries of ``dvc.lock`` against the notes of what stages have read."""

from pathlib import Path

import pytest
import yaml

from pipelines.graph import reads
from prosmin.common.files import write_json
from stages.common import declared, inputs

LOCK = """schema: '2.0'
stages:
  embed@digits:
    cmd: python embed.py
    deps:
    - path: code
      md5: aaa.dir
      size: 3
    - path: data/large
      md5: bbb
      size: 3000000
    params:
      params.yaml:
        embed:
          rate: 1e-06
          names: [a, b]
    outs:
    - path: results/embed
      md5: ccc
      size: 1
  knn:
    cmd: python knn.py
    outs:
    - path: results/knn
      md5: ddd
      size: 1
"""
NOTE = {
    "stage": "embed@digits",
    "params": {"embed": {"rate": 1e-6, "names": ["a", "b"]}},
    "deps": {"code": "aaa.dir"},  # no checksum of the large file
    "before": "",  # dvc.lock had no entry of the stage
}
ENTRY = yaml.load(LOCK, declared.Loader)["stages"]["embed@digits"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text(LOCK)
    inputs.READ.mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"deps": {"code": "other.dir"}}, "code has changed since embed@digits read it"),
        (
            {"params": {"embed": {"rate": 1e-5, "names": ["a", "b"]}}},
            "params.yaml: embed.rate was 1e-05 when embed@digits read it and is 1e-06 now",
        ),
        ({"stage": "gone", "deps": {"code": "other.dir"}}, None),
        # DVC failed before it noted the run, as with a full disk: the entry is of an earlier run.
        ({"deps": {"code": "other.dir"}, "before": declared.fingerprint(ENTRY)}, None),
    ],
)
def test_an_entry_with_other_inputs_is_wrong(folder, change, said):
    write_json(inputs.READ / "embed@digits.json", NOTE | change)
    ends = "; its results are not noted, run it again"
    assert reads.wrong() == ({"embed@digits": f"{said}{ends}"} if said else {})


def test_torn_notes_say_nothing_and_a_new_run_forgets_all(folder):
    for number, text in enumerate(("", "{", "[1]", "3", '{"stage": ["x"]}')):
        (inputs.READ / f"{number}.json").write_text(text)
    assert reads.wrong() == {}
    reads.forget()
    assert not inputs.READ.exists() and reads.wrong() == {}


def test_an_entry_is_withdrawn_and_the_others_stay(folder):
    reads.withdraw("embed@digits")
    left = Path("dvc.lock").read_text()
    assert list(yaml.safe_load(left)["stages"]) == ["knn"]
    assert LOCK.endswith(left.partition("stages:\n")[2])
    reads.withdraw("knn")
    assert not Path("dvc.lock").exists()
