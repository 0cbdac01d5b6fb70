"""The key by which a run finds its own checkpoints."""

from types import SimpleNamespace

import torch
from accelerate import Accelerator

from prosmin.training.state import run_key
from prosmin.training.watch.monitor import Monitor
from tests.prosmin.training.tiny import SETTINGS, changed


def test_the_key_of_a_run_changes_with_settings_seed_images_and_watched_images(digits):
    images, labels = digits
    accelerator = Accelerator(cpu=True)
    monitor = Monitor(images[:10], labels[:10])
    runs = [
        (SETTINGS, images, 0, accelerator, monitor),
        (changed(lr=1e-3), images, 0, accelerator, monitor),
        (SETTINGS, images[1:], 0, accelerator, monitor),
        (SETTINGS, images, 1, accelerator, monitor),
        (SETTINGS, images, 0, accelerator, None),
    ]
    assert len({run_key(*run) for run in runs}) == 5
    assert run_key(*runs[0]) == run_key(*runs[0])
    assert run_key(*runs[0], model={"dim": 8}) != run_key(*runs[0])
    without = [run_key(*run, ("lr",)) for run in runs]
    assert without[0] == without[1] and len(set(without)) == 4


def test_runs_that_differ_in_the_number_of_processes_alone_are_alike(digits):
    images, _ = digits
    several = [
        SimpleNamespace(num_processes=count, mixed_precision="no", device=torch.device("cpu"))
        for count in (1, 4)
    ]
    keys = [run_key(SETTINGS, images, 0, each, None) for each in several]
    alike = [run_key(SETTINGS, images, 0, each, None, alike=True) for each in several]
    assert keys[0] != keys[1] and alike[0] == alike[1]
    assert run_key(changed(lr=1e-3), images, 0, several[0], None, alike=True) != alike[0]
