"""The settings of views: what they allow, and that reading them costs no import of torch."""

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from prosmin.views.settings import ViewSettings


def test_settings_are_imported_without_torch():
    code = "import sys, prosmin.views.settings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        ViewSettings(size=8).size = 9  # type: ignore[misc]
