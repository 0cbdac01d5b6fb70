"""The settings of views: what they allow, and that reading them costs no import of torch."""

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from prosmin.common.errors import ConfigError
from prosmin.views.settings import LocalViews, Views, ViewSettings


def test_settings_are_imported_without_torch():
    code = "import sys, prosmin.views.settings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        ViewSettings(size=8).size = 9  # type: ignore[misc]


def test_local_views_of_several_sizes_are_as_many_of_each():
    local = LocalViews(count=2, size=(6, 4), scale=(0.1, 0.3))
    views = Views(scale=(0.5, 1.0), flip=0.2, local=local).every(8)
    assert [view.size for view in views] == [8, 8, 6, 6, 4, 4]
    assert {view.scale for view in views[2:]} == {(0.1, 0.3)} and views[0].scale == (0.5, 1.0)
    assert {view.flip for view in views} == {0.2}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"scale": (1.0, 0.4)},
            r"scale is \(1.0, 0.4\); it must be \[low, high\] with low <= high",
        ),
        ({"ratio": (2.0, 0.5)}, "ratio is "),
        ({"interpolation": "bicubc"}, "did you mean 'bicubic'"),
        ({"interpolation": "bicubic", "rotate": 20.0}, "goes with rotate 0 only, and rotate is 20"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        Views(**keys)
    with pytest.raises(ConfigError, match=message):
        ViewSettings(size=8, **keys)
