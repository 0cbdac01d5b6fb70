"""Which hosts take part in the training of another one instead of running the graph."""

import pytest

from pipelines.engine.join import join
from prosmin.common.errors import UserError
from stages.common.hosts import VARIABLE


@pytest.mark.parametrize("text", ["", "--nnodes 1", "--nnodes 2 --node-rank 0 --master-addr x"])
def test_the_first_host_and_a_host_alone_run_the_graph(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    assert join() is None


def test_what_names_no_hosts_is_told_before_anything_runs(monkeypatch):
    monkeypatch.setenv(VARIABLE, "hosts.yml")
    with pytest.raises(UserError, match="PROSMIN_HOSTS is 'hosts.yml'; it must be a file of"):
        join()
