"""The progress of a long pass: its rate, and the time left."""

import logging

from prosmin.common import progress
from prosmin.common.progress import Progress


def test_the_progress_says_the_rate_and_the_time_left(monkeypatch, caplog):
    monkeypatch.setattr(progress, "_SAY", 0.0)
    headers = Progress("images", 10_000, done=1000)
    assert headers.line(10.0).startswith("images: 1000 of 10000, ")
    with caplog.at_level(logging.INFO), headers:
        headers.add(2000)
    assert headers.line(20.0) == "images: 3000 of 10000, 100 images/s, 1 min left"
    assert "images: 3000 of 10000" in caplog.text
