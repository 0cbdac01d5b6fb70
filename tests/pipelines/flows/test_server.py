"""Servers that cannot be used or do not start: one sentence, before anything runs."""

import http.server
import json
import re
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


# One process asks all of them: Prefect takes seconds to load.
ASK = """
import json, sys
from pipelines.flows import server
from prosmin.common.errors import UserError

server.settle()
for variables in json.loads(sys.argv[1]):
    with server.environment(variables):
        try:
            with server.reached():
                print("reached")
        except UserError as error:
            print(error)
"""


def test_a_server_that_cannot_be_used_is_one_sentence_before_anything_runs(project, elsewhere):
    own = project.variables["PREFECT_API_URL"]
    cases = [
        ("http://127.0.0.1:9/api", "any:thing", "Connection refused"),
        ("http://no-such-host.invalid/api", "any:thing", "not known|resolution"),
        (f"{elsewhere}/api", "any:thing", "what answers there is not Prefect"),
        (f"{elsewhere}/nowhere", "any:thing", "it answers with 404"),
        (own, "somebody:else", r"it refuses the password \(set PREFECT_API_AUTH_STRING\)"),
        ("nonsense", "any:thing", "protocol"),
    ]
    asked = [
        {"PREFECT_API_URL": address, "PREFECT_API_AUTH_STRING": password}
        for address, password, _ in cases
    ]
    process = project.start("-c", ASK, json.dumps(asked))
    output, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    for (address, _, why), said in zip(cases, output.splitlines(), strict=True):
        assert re.fullmatch(rf"PREFECT_API_URL is {re.escape(address)}, and .*({why}).*", said), (
            said
        )
    refused = project.flow(expect=2, PREFECT_API_URL=cases[0][0])
    assert refused.startswith(f"error: PREFECT_API_URL is {cases[0][0]}, and ")
    assert len(refused.splitlines()) == 1 and not project.recorded()


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
