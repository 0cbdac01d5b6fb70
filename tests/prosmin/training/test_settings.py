"""The settings of training: reading them costs no import of torch."""

import subprocess
import sys


def test_settings_of_training_load_no_torch():
    code = "import sys, prosmin.training.settings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
