"""DVC gets the same values of ``params.yaml`` as by its own function, and reads the file once."""

import os

import pytest
from dvc.dependency import param
from dvc.fs import LocalFileSystem

from pipelines.graph import dvc_params

TEXT = "a: {b: [1, 2], c: 1e-6}\nempty:\nlist: [{x: 1}]\n'odd.key': 3\n5: number\n"
KEYS = ["a.b", "a", "a.c", "empty", "list", "list.0.x", "odd.key", "5", "none", "a.b.none", "emp*"]


@pytest.fixture
def replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(param, "read_param_file", own := param.read_param_file)
    if hasattr(param, "read_anew"):  # an earlier test has replaced it in this process
        own = param.read_anew
        monkeypatch.delattr(param, "read_anew")
        monkeypatch.setattr(param, "read_param_file", own)
    dvc_params.read_once()
    monkeypatch.setattr(param, "read_anew", own, raising=False)
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    return str(path), own


def test_values_are_those_of_dvc(replaced):
    path, own = replaced
    fs = LocalFileSystem()
    for keys in (*([key] for key in KEYS), KEYS, None):
        got = param.read_param_file(fs, path, keys, flatten=True)
        assert got == own(fs, path, keys, flatten=True)
    with open(path, "w") as file:
        file.write("a: {b: 2}\n")
    assert param.read_param_file(fs, path, ["a.b"]) == own(fs, path, ["a.b"])


def test_a_file_is_parsed_once_until_it_changes(replaced, monkeypatch):
    path, _ = replaced
    parsed = []

    def load_path(path, fs):
        parsed.append(path)
        return {"a": {}}

    monkeypatch.setattr("dvc.utils.serialize.load_path", load_path)

    def read():
        return param.read_param_file(LocalFileSystem(), path, ["a"], flatten=True)["a"]

    first = read()
    first["changed"] = True  # nobody else sees it
    assert read() == {} and len(parsed) == 1
    os.utime(path, (1, 1))
    read()
    assert len(parsed) == 2


def test_another_dvc_stays_as_it_is(monkeypatch):
    own = param.read_param_file
    monkeypatch.setattr("pipelines.graph.dvc.VERSION", "0.0")
    dvc_params.read_once()
    assert param.read_param_file is own
