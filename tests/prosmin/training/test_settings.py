"""The settings of training: reading them costs no import of torch."""

import subprocess
import sys
from dataclasses import replace

import pytest

from prosmin.common.settings import Refused
from prosmin.training.schedules import cosine
from prosmin.training.settings import Schedules, Target, TrainSettings


def test_settings_of_training_load_no_torch():
    code = "import sys, prosmin.training.settings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


TRAINING = TrainSettings(
    image_size=8,
    epochs=10,
    batch_size=8,
    lr=0.1,
    warmup_epochs=2,
    decay_epochs=3,
    weight_decay=0.1,
    weight_decay_end=0.5,
    target=Target(momentum=(0.9, 1.0)),
)


def test_before_the_decay_no_schedule_depends_on_the_number_of_epochs():
    short, long = (Schedules.of(replace(TRAINING, epochs=epochs), 4) for epochs in (10, 50))
    assert (short.begin, long.begin, short.warmup) == (7 * 4, 47 * 4, 2 * 4)
    for step in range(short.begin + 1):
        for name in ("rate", "momentum", "decay"):
            assert getattr(short, name)(step) == getattr(long, name)(step)
    last = short.steps - 1
    assert (short.rate(last), short.momentum(last)) == pytest.approx((0.0, 1.0))
    assert short.decay(last) == pytest.approx(0.5) and short.rate(last - 1) < short.rate(last - 2)
    assert short.rate(short.begin) == 0.1 and short.rate(0) == 0.1 / 8


def test_without_decay_epochs_the_schedules_span_the_run():
    whole = Schedules.of(replace(TRAINING, decay_epochs=None), 4)
    assert whole.begin == 0 and whole.momentum(20) == cosine(0.9, 1.0, 20, 40)
    assert Schedules.of(replace(TRAINING, decay_epochs=None, epochs=2), 4).warmup == 4


def test_warmup_and_decay_fit_into_the_run():
    with pytest.raises(Refused, match="^decay_epochs is 9; with warmup_epochs 2 it is more than "):
        replace(TRAINING, decay_epochs=9)
