"""The programs that run the graph, such as ``make repro``, ``make flow`` and ``make worker``.

More than 12 entries, because every command is an entry.
"""

import os
import sys

# Git's hooks and `git rebase -x` set these for what they start. With them, git would take another
# folder for this one: an experiment would check out its commit in the folder of the user.
REPOSITORY = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_SHALLOW_FILE",
)  # fmt: skip

# `python -m pipelines.<command>` imports this first; the interpreter then sets argv[0] to "-m".
if sys.argv[0] == "-m":
    # Before any other module: until here Ctrl-C is a traceback.
    from stages.common.stopping import end_at_once

    end_at_once()
    from prosmin.common.startup import collect_garbage_less, escape_output

    collect_garbage_less()
    escape_output()
    for name in REPOSITORY:
        os.environ.pop(name, None)
