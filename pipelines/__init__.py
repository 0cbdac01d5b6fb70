"""What starts the stages: the environment they run in, and the commands behind ``make repro``, ``flow``, ``dashboard`` and ``sweep``."""

import gc
import sys

from stages.common.stopping import end_at_once

# `python -m pipelines.<command>` comes here first, with this mark of the interpreter. Prefect and DVC make hundreds of thousands of
# objects while they load, none of them garbage, and looking them through again and again is a tenth of the time it takes.
if sys.argv[0] == "-m":
    gc.set_threshold(50_000, 50, 100)
    end_at_once()
