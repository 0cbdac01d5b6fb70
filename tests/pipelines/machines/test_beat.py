"""A point that gets no answer of its server ends itself."""

from uuid import uuid4

import pytest

from pipelines.flows.server import environment, free_port
from pipelines.machines.beat import Beat
from prosmin.common.errors import UserError


def test_a_point_without_an_answer_for_half_of_the_patience_ends_itself():
    ended = []
    beat = Beat(uuid4(), 1.0, "one", lambda: ended.append(True))
    with environment({"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}):
        beat.patience = 1e9  # nobody has waited so long
        beat.check()
        assert not ended and not beat.lost
        beat.patience = 1e-3
        with pytest.raises(UserError, match=r"^the server has not answered for \d+ seconds$"):
            beat.check()
    assert ended
