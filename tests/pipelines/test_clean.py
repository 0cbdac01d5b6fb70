"""``make clean`` in a small project of which a dataset has gone from ``params.yaml``."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines import clean
from pipelines.graph import dag
from prosmin.common.errors import UserError
from stages.common import declared, proof
from tests.pipelines.clones import noted
from tests.stages.conftest import project

GRAPH = """
stages:
  fetch:
    foreach: ${fetch}
    do:
      cmd: make ${key}
      outs: ["data/${key}", "metrics/fetch/${key}.json": {cache: false}]
  report: {cmd: make report, deps: [metrics], outs: [results/report]}
"""
GONE = {"data/old", "metrics/fetch/old.json"}


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def set_fetch(*names: str) -> None:
    write("params.yaml", yaml.safe_dump({"fetch": {name: {"source": "x"} for name in names}}))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Everything has run with ``old`` and ``new``, and DVC's cache has it; then ``old`` is gone."""
    monkeypatch.chdir(project(tmp_path / "a project"))
    write("dvc.yaml", GRAPH)
    set_fetch("old", "new")
    for name in ("old", "new"):
        for file in ("train", "test"):
            write(f"data/{name}/{file}.arrow", f"the {file} images of {name}")
        write(f"metrics/fetch/{name}.json", json.dumps({"count": name}))
    write("results/report/index.html", "<html>")
    write("data/.gitignore", "/old\n/new\n")  # of DVC
    write("dvc.lock", yaml.safe_dump({"schema": "2.0", "stages": dict(noted())}))
    for entry in declared.locked().values():
        for out in entry["outs"]:
            into_cache(out["path"], out["md5"])
    set_fetch("new")
    return Path.cwd()


def into_cache(path: str, md5: str) -> None:
    digests = {file: proof.digest(file, "md5") for file in proof.below(path)}
    if Path(path).is_dir():
        listed = [
            {"md5": digest, "relpath": str(Path(file).relative_to(path))}
            for file, digest in digests.items()
        ]
        listed.sort(key=lambda file: file["relpath"])
        write(str(proof.cached(md5)), json.dumps(listed, sort_keys=True))
    for file, digest in digests.items():
        write(str(proof.cached(digest)), Path(file).read_text())


def cleaned(dry: bool = False) -> list[str]:
    with dag.locked() as repo:
        return list(clean.clean(repo, dry))


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file() and ".git" not in path.parts}


def commit() -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "add", "dvc.lock"], check=True)
    subprocess.run(["git", *identity, "commit", "-qm", "a"], check=True)


def test_a_dry_run_names_all_and_removes_nothing(folder):
    before = files()
    assert cleaned(dry=True) == [
        "would remove data/old (45 bytes)",
        "would remove metrics/fetch/old.json (16 bytes)",
        "would remove from dvc.lock: fetch@old",
        f"would free 61 bytes here and {61 + listing_size()} bytes in DVC's cache",
    ]
    assert {path for path in before if "dvc/tmp" not in path} <= files()


def listing_size() -> int:
    """Bytes of DVC's list of the files in data/old."""
    return proof.cached(declared.locked()["fetch@old"]["outs"][0]["md5"]).stat().st_size


def test_outputs_entries_and_copies_of_what_is_gone_are_removed_and_all_else_stays(folder):
    cache = {path for path in files() if path.startswith(".dvc/cache")}
    write("results/ours/notes.txt", "written by a person")
    freed = 61 + listing_size()
    assert cleaned()[-1] == f"freed 61 bytes here and {freed} bytes in DVC's cache"
    assert not any(path.startswith(tuple(GONE)) for path in files())
    assert {
        "data/new/train.arrow",
        "metrics/fetch/new.json",
        "results/report/index.html",
    } <= files()
    assert Path("results/ours/notes.txt").is_file()
    assert set(declared.locked()) == {"fetch@new", "report"}
    left = {path for path in files() if path.startswith(".dvc/cache")}
    assert len(cache - left) == 4  # two files, their list, the metrics
    assert all(
        proof.kept(out["md5"]) for entry in declared.locked().values() for out in entry["outs"]
    )
    assert cleaned() == ["nothing to remove"]


@pytest.mark.parametrize("where", ["a commit", "an experiment", "the folder of a run"])
def test_copies_that_something_names_stay(folder, where):
    if where == "the folder of a run":
        Path("runs/other").mkdir(parents=True)
        shutil.copy("dvc.lock", "runs/other/dvc.lock")
    else:
        commit()
    if where == "an experiment":  # of git no branch leads to it
        subprocess.run(["git", "update-ref", "refs/exps/ab/cd/mine", "HEAD"], check=True)
        subprocess.run(["git", "update-ref", "-d", "HEAD"], check=True)
        subprocess.run(["git", "reflog", "expire", "--expire=now", "--all"], check=True)
    kept = {out["md5"] for out in declared.locked()["fetch@old"]["outs"]}
    assert cleaned()[-1].endswith(
        "stay in DVC's cache: commits, experiments or other projects may name them"
    )
    assert not Path("data/old").exists() and all(map(proof.kept, kept))


def test_a_cache_of_several_projects_is_left(folder):
    write(".dvc/config.local", "[cache]\n    dir = cache\n")
    kept = {out["md5"] for out in declared.locked()["fetch@old"]["outs"]}
    assert any("61 bytes here and 0 bytes in DVC's cache" in line for line in cleaned())
    assert all(map(proof.kept, kept))


def test_what_a_person_has_put_there_or_changed_is_left_and_named(folder):
    write("data/raw/cat.jpg", "a photograph")
    write("data/old/train.arrow", "edited")
    said = cleaned()
    assert "left data/raw: it is not as a stage of this project has written it" in said
    assert "left data/old: it is not as a stage of this project has written it" in said
    assert Path("data/raw/cat.jpg").is_file() and Path("data/old/train.arrow").is_file()
    assert not Path("metrics/fetch/old.json").exists()


def test_an_output_of_an_older_lock_is_known_by_the_note_of_its_stage(folder):
    write("data/older/train.arrow", "images")
    proof.remember(["data/older"])
    assert "removed data/older (6 bytes)" in cleaned()
    assert not Path("data/older").exists() and proof.noted("data/older") == {}


def test_a_graph_that_cannot_be_read_removes_nothing(folder):
    before = files()
    write("dvc.yaml", GRAPH.replace("cmd: make report", "cmmd: make report"))
    with pytest.raises(UserError, match=r"dvc\.yaml"):
        cleaned()
    assert {path for path in before if "dvc/tmp" not in path} <= files()


def test_sizes_are_told_in_words():
    told = {0: "0 bytes", 999: "999 bytes", 1500: "1.5 kB", 3.14e9: "3.14 GB", 5e16: "5e+04 TB"}
    assert {size: clean.told(size) for size in told} == told
