"""The flow against DVC: the same bytes, the right stages, each on its share of the machine."""

import os
import socket
import threading
from pathlib import Path

import pytest

from pipelines import run
from prosmin.common.errors import UserError
from tests.pipelines.projects import Project

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
LEAVES = {"leaf@one", "leaf@two"}


def outcomes(output: str) -> dict[str, str]:
    """What a run without a terminal says became of each stage."""
    words = ("ran", "cached", "skipped", "failed", "blocked", "stopped")
    split = (line.partition(": ") for line in output.splitlines())
    return {
        name: rest.split()[0].rstrip(":")
        for name, _, rest in split
        if name != "ERROR" and rest and rest.split()[0].rstrip(":") in words
    }


def add_leaf(project: Project, item: str) -> None:
    path = project.folder / "dvc.yaml"
    text = path.read_text()
    assert "[one, two]" in text
    path.write_text(text.replace("[one, two]", f"[one, two, {item}]"))


def set_param(folder: Path, old: str, new: str) -> None:
    text = (folder / "params.yaml").read_text()
    assert old in text
    (folder / "params.yaml").write_text(text.replace(old, new, 1))


# A first run, a change with all stages forced, and the old value again.
CHANGES = [
    ("k: [1, 5", "k: [1, 5"),
    ("k: [1, 5", "k: [2, 5"),
    ("k: [2, 5", "k: [1, 5"),
]
FORCED = [[], ["--force"], []]


@pytest.fixture(scope="module")
def sequential(tmp_path_factory, prefect_home) -> list[dict[str, bytes]]:
    """Files of `dvc repro` after each of ``CHANGES``."""
    project = Project(tmp_path_factory.mktemp("sequential") / "a project", {})
    states = []
    for change, force in zip(CHANGES, FORCED, strict=True):
        set_param(project.folder, *change)
        project.run("dvc", "repro", "-q", *force)
        states.append(project.left())
    return states


# Many times over: PROSMIN_REPETITIONS=20 make test ARGS="-k any_number_of_workers"
REPETITIONS = int(os.environ.get("PROSMIN_REPETITIONS", "0"))
# Workers of the three runs.
MIXED = ("1", "6", "2")


@pytest.mark.parametrize("workers", [MIXED, *[(n,) * 3 for n in MIXED] * REPETITIONS])
def test_any_number_of_workers_leaves_what_dvc_repro_leaves(project, workers, sequential):
    """After each of ``CHANGES``."""
    said = []
    for change, force, count, expected in zip(CHANGES, FORCED, workers, sequential, strict=True):
        set_param(project.folder, *change)
        said.append(outcomes(project.flow("--workers", count, *force)))
        assert project.left() == expected
    first, forced, back = said
    assert set(first.values()) == set(forced.values()) == {"ran"} and len(first) == len(forced) == 6
    assert {back[name] for name in ("source@a", "source@b", "middle")} == {"skipped"}
    assert back["total"] == "cached"
    assert "up to date" in project.run("dvc", "status")


def test_each_stage_has_its_share_and_leaves_run_at_the_same_time(project):
    """A stage that is new in dvc.yaml is in the flow, and waits for a GPU as the others do."""
    add_leaf(project, "fifth")
    said = outcomes(project.flow("--workers", "2", CUDA_VISIBLE_DEVICES="3,5", MEET="1"))
    sources = {"source@a", "source@b"}
    assert set(said) == {*sources, "middle", *LEAVES, "leaf@fifth", "total"}
    running: dict[str, dict[str, str]] = {}
    together = 0
    for event in project.recorded():
        if "end" in event:
            del running[event["stage"]]
            continue
        running[event["stage"]] = event
        together = max(together, len(running))
        shares = [
            share for line in running.values() for share in (line["gpus"] or "").split(",") if share
        ]
        assert len(shares) == len(set(shares))
        assert sum(int(line["threads"]) for line in running.values()) <= 2
        kind = event["stage"].partition("@")[0]
        assert (
            event["gpus"]
            in {"source": ("",), "middle": ("3,5",), "leaf": ("3", "5"), "total": ("",)}[kind]
        )
        assert event["threads"] == ("2" if kind == "middle" else "1")
    assert together == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["lef"],
            "'lef' is not a stage (did you mean 'leaf'?); there are: leaf, middle, source, total",
        ),
        (
            ["--set", "pretrain.epoch=3"],
            "pretrain.epoch is not in params.yaml (did you mean 'pretrain.epochs'?)",
        ),
        (
            ["--set", "pretrain.epochs"],
            "'pretrain.epochs' is not key=value, such as pretrain.epochs=5",
        ),
        (
            ["--name", "a b"],
            "'a b' cannot be the name of an experiment; use letters, digits, '-', '_' and '.'",
        ),
    ],
)
def test_bad_input_is_one_sentence(project, monkeypatch, arguments, sentence):
    monkeypatch.chdir(project.folder)
    assert refused(*arguments) == sentence


def refused(*arguments: str) -> str:
    """What a run in the current folder is refused with, which ``run.command`` says on one line."""
    with pytest.raises(UserError) as caught:
        run.main(run.arguments(arguments))
    return str(caught.value)


def test_bad_graphs_are_one_sentence(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    good = (project.folder / "dvc.yaml").read_text()
    for old, new, words in (
        (
            "deps: [work.py, results/source/a]",
            "deps: [work.py, results/source/a, results/total]",
            "both a dependency and an output",
        ),
        (
            "{gpus: 1}",
            "{gpus: two}",
            "meta.resources.gpus is 'two'; it must be all, free, or a whole number of at least 0",
        ),
        (
            "{gpus: 1}",
            "{gpu: 1}",
            "meta.resources.gpu is not a known key (did you mean 'gpus'?); "
            "allowed: gpus, threads, memory, weight",
        ),
        (
            "{gpus: 1}",
            "{weight: all}",
            "meta.resources.weight is 'all'; it must be a whole number of at least 1",
        ),
        ("cmd: python work.py total", "cmmd: python work.py total", "dvc.yaml"),
    ):
        (project.folder / "dvc.yaml").write_text(good.replace(old, new))
        said = refused()
        assert words in said and len(said.splitlines()) == 1, said
    assert project.flow(expect=2) == f"error: {said}\n"


def test_without_git_or_dvc_yaml_it_says_so(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project.folder)
    (project.folder / ".git").rename(tmp_path / "elsewhere")
    assert refused() == (
        "this folder is not a git clone, and DVC needs one; use `git clone`, or `git init`"
    )
    (project.folder / "dvc.yaml").unlink()
    assert refused() == (
        "there is no dvc.yaml in a project/; run this in the top folder of the project"
    )


NOTE = """
if name == "leaf@one":
    note = {"stage": name, "before": "", "params": {"knn.k": [9]}, "deps": {}}
    Path(".prosmin/read").mkdir(parents=True, exist_ok=True)
    Path(".prosmin/read/leaf@one.json").write_text(json.dumps(note))
"""


def test_a_stage_whose_params_dvc_has_noted_wrong_has_failed_and_is_not_noted(project):
    """The stage leaves a note that it has read other params, as after an edit at its end."""
    with open(project.folder / "work.py", "a") as work:
        work.write(NOTE)
    said = project.flow("leaf", expect=1)
    assert set(outcomes(said)) == {"source@a", "source@b", "middle", *LEAVES}
    assert "leaf@one failed: params.yaml: knn.k was [9] when leaf@one read it and is [1, 5" in said
    assert "leaf@two" in project.left()["dvc.lock"].decode()
    assert "leaf@one" not in project.left()["dvc.lock"].decode()


def test_without_a_server_it_runs_all_the_same_and_calls_nobody(project):
    """Whoever would call out, would do so through the proxy that the environment names."""
    calls: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def answer() -> None:
            while True:
                try:
                    caller, _ = proxy.accept()
                except OSError:
                    return
                with caller:
                    calls.append(caller.recv(1000))

        threading.Thread(target=answer, daemon=True).start()
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        variables = dict.fromkeys(names, address) | {"no_proxy": "intranet.example"}
        project.variables = {
            name: value
            for name, value in project.variables.items()
            if name.lower() != "no_proxy" and "_API_" not in name
        }
        assert set(outcomes(project.flow("leaf@one", **variables)).values()) == {"ran"}
        proxy.shutdown(socket.SHUT_RDWR)
    assert not calls
