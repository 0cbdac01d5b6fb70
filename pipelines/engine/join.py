"""On a host that is not the first of PROSMIN_HOSTS, a run takes part in the training alone."""

import sys

from pipelines.engine.execute import ended, guarded
from stages.common import hosts


def join() -> int | None:
    """Wait for the training of the first host, take part, and return the code of the stage.

    Nothing is written here, and no stage runs. Returns None on the first host, and where no other
    host is named.

    Raises:
        UserError: where PROSMIN_HOSTS names no hosts.
    """
    named = hosts.given()
    if named is None or named.number == 0:
        return None
    code = ended(guarded([sys.executable, "-m", "stages.pretrain"], shown=True))
    if code == 0:  # else the stage has said why
        print("the training has ended; its results are on the first host")
    return code
