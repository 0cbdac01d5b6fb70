"""Servers that cannot be used or do not start: one sentence, before anything runs."""

import http.server
import os
import re
import subprocess
import sys
import threading

import pytest

from pipelines.flows import server
from prosmin.common.errors import UserError
from tests.pipelines.projects import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def elsewhere():
    """The address of a web server that is not Prefect's."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if "nowhere" in self.path else 200)
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("address", "password", "why"),
    [
        ("http://127.0.0.1:9/api", None, "Connection refused"),
        ("http://no-such-host.invalid/api", None, "not known|resolution"),
        ("{elsewhere}/api", None, "what answers there is not Prefect"),
        ("{elsewhere}/nowhere", None, "it answers with 404"),
        ("{own}", "somebody:else", r"it refuses the password \(set PREFECT_API_AUTH_STRING\)"),
        ("nonsense", None, "protocol"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_sentence_before_anything_runs(
    project, monkeypatch, elsewhere, address, password, why
):
    address = address.format(elsewhere=elsewhere, own=project.variables["PREFECT_API_URL"])
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("PREFECT_API_URL", address)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", password or "any:thing")
    code = (
        "from pipelines import run; from pipelines.flows import server; server.settle(); "
        "run.command(lambda: server.reached().__enter__())"
    )
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert re.fullmatch(
        rf"error: PREFECT_API_URL is {re.escape(address)}, and .*({why}).*\n", done.stderr
    ), done.stderr
    assert not project.recorded()


def test_a_server_that_does_not_start_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "prefect.db").write_bytes(
        b"not a database, but as long as the head of one has to be" * 100
    )
    monkeypatch.setenv("PREFECT_HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(
        UserError, match=r"did not start on 127.0.0.1:\d+: file is not a database \(.*home\)$"
    ):
        with server.started(server.free_port(), ui=False):
            pass
    assert server.ending(137, ["starting"]) == "it was ended by SIGKILL"
    assert (
        server.ending(1, ["Traceback", "error: the disk is full (home)", "x"])
        == "the disk is full (home)"
    )
    (tmp_path / ".prosmin").write_text("a file")
    with pytest.raises(UserError, match=r"^\.prosmin is a file; it must be a folder"):
        server.settle()
