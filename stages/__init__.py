"""One module per stage of ``dvc.yaml``.

A stage reads its section of ``params.yaml``, calls ``prosmin``, and writes its outs. The folder has
more than 12 entries, because it lists the graph: one entry per stage.
"""

import os
import sys

# `python -m stages.<stage>` imports this first, and the interpreter then sets argv[0] to "-m".
if sys.argv[0] == "-m":
    from stages.common.stopping import end_at_once

    end_at_once()
    from prosmin.common.startup import collect_garbage_less

    collect_garbage_less()
    # matplotlib does not load where this names a backend that it does not know; stages need none.
    os.environ.pop("MPLBACKEND", None)
