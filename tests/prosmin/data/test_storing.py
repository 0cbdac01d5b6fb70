"""Images on their way into a dataset: processes as threads, and smaller images."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prosmin.data import storing
from prosmin.data.arrow import Layout
from prosmin.data.picture import decode
from prosmin.data.storing import Omitted, Row, Workers, rows_of


def jpeg(height: int, width: int, mode: str = "RGB") -> bytes:
    ramp = np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(ramp).convert(mode).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture
def items(tmp_path):
    images = [jpeg(70 + place, 90, "L" if place % 3 else "RGB") for place in range(150)]
    images[17] = b"no image"
    (tmp_path / "a.jpg").write_bytes(images[3])
    images[3] = tmp_path / "a.jpg"
    return [(image, place % 5, f"image {place}") for place, image in enumerate(images)]


def test_processes_give_what_threads_give_in_the_same_order(items, monkeypatch):
    layout, results = Layout("encoded", 3), []
    for large in (10**9, 1):
        monkeypatch.setattr(storing, "LARGE", large)
        with Workers(2, len(items)) as workers:
            assert workers.processes == (large == 1)
            surveys = [(count, vars(facts)) for count, facts in workers.surveys(items)]
            results.append((surveys, list(workers.rows(items, layout, None))))
    assert results[0] == results[1]
    assert sum(count for count, _ in results[0][0]) == len(items)
    rows = results[0][1]
    assert [row.source for row in rows] == [source for _, _, source in items]
    assert isinstance(rows[17], Omitted) and rows[3].image == Path(items[3][0]).read_bytes()
    assert all(row.image == item[0] for row, item in zip(rows[18:], items[18:], strict=True))


def test_a_survey_changes_with_the_images_and_their_labels(items):
    before = storing.survey(items)
    assert storing.survey(items).identity == before.identity
    assert before.channels == {1: 99, 3: 50} and len(before.unreadable) == 1
    assert storing.survey(items[:-1]).identity != before.identity
    relabelled = [*items[:-1], (items[-1][0], 4 - items[-1][1], items[-1][2])]
    assert storing.survey(relabelled).identity != before.identity
    items[3][0].write_bytes(jpeg(20, 20))
    assert storing.survey(items).identity != before.identity


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("size", "expected"),
    [((300, 200), (150, 100)), ((101, 500), (100, 495)), ((100, 300), None), ((90, 90), None)],
)
def test_larger_images_are_stored_at_the_short_side_asked_for(mode, size, expected):
    image = jpeg(*size, mode)
    (row,) = rows_of([(image, 1, "a")], Layout("encoded", 3), 100)
    assert isinstance(row, Row) and row.shrunk == (expected is not None)
    assert (row.height, row.width) == (expected or size)
    if expected is None:
        assert row.image == image
    else:
        stored = Image.open(io.BytesIO(row.image))
        assert stored.format == "JPEG" and stored.mode == mode and stored.size == expected[::-1]
        whole = Image.fromarray(decode(image).squeeze()).resize(stored.size, Image.BICUBIC)
        assert np.abs(np.asarray(stored, int) - np.asarray(whole, int)).mean() < 2
