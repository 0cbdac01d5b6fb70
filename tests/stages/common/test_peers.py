"""The hosts of a training: what is compared, and which host has gone."""

import copy
import socket
import time

import pytest

from stages.common import peers
from stages.common.peers import Peers, Place

FACTS = {
    "params": {"seed": 0, "pretrain": {"lr": 0.1, "views": {"blur": 0.5}}},
    "files": {"stages/pretrain.py": "1", "data/digits/manifest.json": "2"},
    "versions": {"torch": "2.9.0", "Python": "3.11.2"},
}


def changed(section, *keys, value):
    facts = copy.deepcopy(FACTS)
    place = facts[section]
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return facts


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (FACTS, ""),
        (
            changed("params", "pretrain", "views", "blur", value=0.1),
            "params.yaml: pretrain.views.blur is 0.5 on one and 0.1 on two",
        ),
        (
            changed("files", "stages/pretrain.py", value="3"),
            "stages/pretrain.py is not the same on one and on two; bring both to one commit",
        ),
        (
            changed("files", "data/digits/manifest.json", value=None),
            "data/digits/manifest.json is not the same on one and on two; "
            "`dvc pull` it from one place",
        ),
        (
            changed("files", "stages/more.py", value="3"),
            "stages/more.py is not the same on one and on two; bring both to one commit",
        ),
        (
            changed("versions", "torch", value="2.9.1"),
            "torch is 2.9.0 on one and 2.9.1 on two; install one lock file",
        ),
    ],
)
def test_the_first_difference_of_two_hosts_is_one_sentence(other, said):
    assert peers.difference(FACTS, other, "one", "two") == said


def three(monkeypatch, ages, closed=False, **said):
    """The view of host 1 of 3. ages: seconds since a host was heard. closed: a connection was."""
    monkeypatch.setenv("GROUP_RANK", "1")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "3")
    here = Peers("pretrain")
    here.names = ["desk", "here", "shelf"]
    here.heard = {host: time.monotonic() - age for host, age in ages.items()}
    here.said = {int(host[1:]): text for host, text in said.items()}
    here.limit = peers.CLOSED if closed else peers.SILENCE
    return here.gone()


def test_the_host_that_is_silent_has_gone(monkeypatch):
    long = peers.SILENCE + 1
    assert three(monkeypatch, {0: 0, 2: 0}) == ""
    assert three(monkeypatch, {0: 0, 2: long}).startswith("shelf has ended or cannot be reached")
    # Without the first host there is no store, so nobody is heard.
    assert three(monkeypatch, {0: long, 2: long}).startswith("desk has ended")
    assert three(monkeypatch, {0: 0, 2: long}, h2="done") == ""
    assert three(monkeypatch, {0: 0, 2: peers.CLOSED + 1}) == ""
    assert three(monkeypatch, {0: 0, 2: peers.CLOSED + 1}, closed=True).startswith("shelf has")


def test_why_a_host_has_stopped_is_told_where_it_stops_another(monkeypatch):
    said = {"h2": "!it was interrupted"}
    assert three(monkeypatch, {0: 0, 2: 0}, **said) == ""  # this host may be about to say the same
    for ages, closed in (({0: 0, 2: 0}, True), ({0: 0, 2: peers.SILENCE + 1}, False)):
        assert three(monkeypatch, ages, closed, **said) == "shelf has stopped: it was interrupted"


def test_without_torchruns_agents_there_is_one_host(monkeypatch):
    for name in ("GROUP_RANK", "GROUP_WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Place.read() == Place(0, 1, True)
    with Peers("pretrain") as alone:
        assert not alone.talk.is_alive()


def test_gloo_takes_the_network_of_the_first_host(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert peers.choose_interface() == "127.0.0.1"
    import os

    assert os.environ["GLOO_SOCKET_IFNAME"] in [name for _, name in socket.if_nameindex()]
    assert os.environ["GLOO_SOCKET_IFNAME"].startswith("lo")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")  # what the user says, stays
    peers.choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
