"""The programs that run the graph: ``make repro``, ``flow``, ``dashboard``, ``sweep``, ``study``.

More than 12 entries, because every command is an entry.
"""

import sys

from prosmin.common.startup import collect_garbage_less
from stages.common.stopping import end_at_once

# `python -m pipelines.<command>` imports this first; the interpreter then sets argv[0] to "-m".
if sys.argv[0] == "-m":
    end_at_once()
    collect_garbage_less()
