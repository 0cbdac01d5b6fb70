"""The names of label-free scores."""

import subprocess
import sys

from prosmin.objectives.doubts import DOUBTS


def test_names_of_doubts_load_no_torch_and_have_labels_of_their_own():
    code = "import sys, prosmin.objectives.doubts; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len({doubt.label for doubt in DOUBTS.values()}) == len(DOUBTS)
    assert all(doubt.definition.endswith(".") for doubt in DOUBTS.values())
