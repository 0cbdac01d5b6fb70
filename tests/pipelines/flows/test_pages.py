"""A run of which a stage fails: its outcome, and its page in a browser.

The browser signs in by itself and contacts this machine alone.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from pipelines.dashboard import forward
from pipelines.flows.server import Server
from tests.conftest import BROWSERS
from tests.pipelines.flows.test_graph_flow import outcomes
from tests.pipelines.projects import Project

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
]
FLAGS += [
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=15000",
    "--window-size=1400,1000",
]
LOOKS = 6


def browse(url: str, folder: Path, *flags: str) -> str:
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout


def page_with(texts: Iterable[str], url: str, folder: Path, *flags: str) -> str:
    """The words of a page once all ``texts`` are on it; a busy machine may need several looks."""
    for _ in range(LOOKS):
        page = browse(url, folder, "--dump-dom", *flags)
        if all(text in words(page) for text in texts):
            break
    missing = [text for text in texts if text not in words(page)]
    assert not missing, f"{url} does not show {missing} but {words(page)}"
    return words(page)


def words(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).split())


@pytest.fixture(scope="module")
def failed(tmp_path_factory, reporting) -> tuple[Project, str]:
    """A project after a run in which leaf@two has failed, and what the run said."""
    project = reporting(tmp_path_factory.mktemp("failed"))
    return project, project.flow(expect=1, BREAK="leaf@two")


def test_a_failure_holds_up_what_depends_on_it_and_nothing_else(failed):
    project, said = failed
    done = ["source@a", "source@b", "middle", "leaf@one"]
    assert outcomes(said) == dict.fromkeys(done, "ran") | {"leaf@two": "failed", "total": "blocked"}
    assert said.splitlines()[-1] == "error: leaf@two failed: it broke on purpose; not run: total"
    assert [line["stage"] for line in project.recorded()].count(
        "leaf@two"
    ) == 1  # a real failure is not tried again
    again = outcomes(project.flow())
    assert {name for name, outcome in again.items() if outcome == "ran"} == {"leaf@two", "total"}


@pytest.mark.browser
def test_the_page_of_a_run_shows_its_stages_and_what_they_left(failed, tmp_path):
    api = failed[0].api
    start = tmp_path / "sign-in.html"
    start.write_text(forward(Server(api.url, api.password)))
    run = next(
        event["id"]
        for event in api.runs("FAILED")
        if "leaf@two failed" in event["state"]["message"]
    )
    site = api.url.removesuffix("/api")
    page_with(["Dashboard • Prefect Server"], start.as_uri(), tmp_path)
    page_with(["Runs • Prefect Server", "all stages"], f"{site}/runs", tmp_path)
    log = tmp_path / "net.json"
    texts = ["all stages", "Failed", "6 Task runs", "working on source@a"]
    page_with(texts, f"{site}/runs/flow-run/{run}", tmp_path, f"--log-net-log={log}")
    assert asked(log, site) == {"127.0.0.1"}

    shot = tmp_path / "run.png"
    browse(f"{site}/runs/flow-run/{run}", tmp_path, f"--screenshot={shot}")
    assert (
        len(np.unique(np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3), axis=0)) > 50
    )  # the graph is drawn

    table = api.artifacts(run)["stages"]["id"]
    texts = ["leaf@one ran", "leaf@two failed", "it broke on purpose", "total blocked"]
    page_with(texts, f"{site}/artifacts/artifact/{table}", tmp_path)


def asked(log: Path, site: str) -> set[str]:
    """Whom a page of ``site`` has asked for anything (the browser itself asks its maker)."""
    text = log.read_text()
    events = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}")[
        "events"
    ]
    requests = [
        event["params"] for event in events if event.get("params", {}).get("initiator") == site
    ]
    return {urlsplit(event["url"]).hostname for event in requests if "url" in event}
