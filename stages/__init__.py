"""One module per stage of ``dvc.yaml``: read the section of ``params.yaml``, call ``prosmin``, write the outs."""

import gc
import os
import sys

# `python -m stages.<stage>` comes here first, with this mark of the interpreter. PyTorch makes a million objects while it
# loads, none of them garbage, and looking them through again and again is a fifth of the time it takes.
if sys.argv[0] == "-m":
    gc.set_threshold(50_000, 50, 100)
    from stages.common.stopping import end_at_once

    end_at_once()
    # Pictures are drawn without a backend, and matplotlib does not load where this names one that it does not know.
    os.environ.pop("MPLBACKEND", None)
