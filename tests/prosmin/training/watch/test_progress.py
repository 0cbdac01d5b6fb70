"""How often a run is observed."""

import pytest

from prosmin.training.settings import TrainSettings
from prosmin.training.watch.progress import Watch


@pytest.mark.parametrize(("epochs", "whole", "extended"), [(5, 1, 1), (80, 4, 4), (250, 12, 8)])
def test_rows_of_a_run_that_may_be_extended_are_among_those_of_a_shorter_one(
    epochs, whole, extended
):
    def every(**how):
        return Watch().every(TrainSettings(image_size=8, batch_size=8, lr=1, epochs=epochs, **how))

    assert every(warmup_epochs=0) == whole
    assert every(warmup_epochs=0, decay_epochs=1) == extended
