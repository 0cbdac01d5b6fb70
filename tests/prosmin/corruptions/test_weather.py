"""Snow, frost and fog with their random numbers given, and their statistics."""

import math
import shutil
from importlib import resources
from pathlib import Path

import cv2
import imagecorruptions
import numpy as np
import pytest
import torch
from imagecorruptions.corruptions import plasma_fractal

from prosmin.common.errors import UserError
from prosmin.corruptions import textures, weather
from prosmin.corruptions.apply import corrupt
from prosmin.corruptions.textures import Frost, procedural_frost, read_frost
from tests.prosmin.corruptions.conftest import Fed, change, every_severity, levels, ours
from tests.reference import corruptions as reference

PHOTOGRAPHS = Path(str(resources.files(imagecorruptions) / "frost"))
ZOOMS = [3, 2, 4, 4.5, 2.5]  # of large snow
SMALL_SNOW = [
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
]
SMALL_FROST = [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)]


# --- snow -----------------------------------------------------------------------------------------


@every_severity
def test_snow_with_the_benchmarks_flakes(large, severity, monkeypatch):
    rng = np.random.default_rng(severity)
    noise, angles = rng.standard_normal((len(large), 224, 224)), rng.uniform(-135, -45, len(large))
    mean, deviation = [(0.1, 0.3), (0.2, 0.3), (0.55, 0.3), (0.55, 0.3), (0.55, 0.3)][severity - 1]
    monkeypatch.setattr(np.random, "normal", Fed(*(mean + deviation * noise)))
    monkeypatch.setattr(np.random, "uniform", Fed(*angles))
    expected = np.stack([imagecorruptions.corrupt(image, severity, "snow") for image in large])
    size = math.ceil(224 / ZOOMS[severity - 1])
    middle = slice((224 - size) // 2, (224 - size) // 2 + size)
    monkeypatch.setattr(
        weather, "normal", Fed(torch.from_numpy(noise[:, None, middle, middle]).float())
    )
    monkeypatch.setattr(weather, "uniform", Fed(torch.from_numpy(np.deg2rad(angles))))
    difference = np.abs(ours(large, "snow", severity).astype(int) - expected)
    assert (
        difference > 1
    ).mean() < 1e-3  # a flake at the very threshold falls or not by the last digit


@every_severity
def test_snow_on_small_images(small, severity, monkeypatch):
    constants = SMALL_SNOW[severity - 1]
    size = math.ceil(32 / constants[2])
    rng = np.random.default_rng(severity)
    noise, angles = (
        rng.standard_normal((len(small), size, size)),
        rng.uniform(-135, -45, len(small)),
    )
    monkeypatch.setattr(weather, "normal", Fed(torch.from_numpy(noise[:, None]).float()))
    monkeypatch.setattr(weather, "uniform", Fed(torch.from_numpy(np.deg2rad(angles))))
    expected = [
        reference.snowed(image / 255, *constants, *draw)
        for image, *draw in zip(small, noise, angles)
    ]
    difference = np.abs(ours(small, "snow", severity) - levels(np.stack(expected)))
    assert (difference > 1).mean() < 1e-3


def test_snow_falls_as_much_as_the_benchmarks(large):
    np.random.seed(0)
    for severity in (1, 3):
        image = large.repeat(2, axis=0)
        expected = change(
            image,
            np.stack([imagecorruptions.corrupt(picture, severity, "snow") for picture in image]),
        )
        result = change(image, ours(image, "snow", severity))
        assert result.mean() == pytest.approx(expected.mean() + 0.5, rel=0.05)
        assert result.std() == pytest.approx(expected.std(), rel=0.05)


# --- frost ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs():
    return read_frost(PHOTOGRAPHS)


@every_severity
def test_frost_with_the_benchmarks_photographs(large, photographs, severity, monkeypatch):
    """A part of a photograph as it is in the file, in the shares of the benchmark."""
    own, ice = [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)][severity - 1]
    files = ["frost1.png", "frost2.png", "frost4.jpg", "frost5.jpg"]
    panes = [cv2.imread(str(PHOTOGRAPHS / file))[..., ::-1].astype(float) for file in files]
    places = [((len(pane) - 224) // 3, (pane.shape[1] - 224) // 2) for pane in panes]
    shares = [
        [(which + 0.5) / 5, (top + 0.5) / (len(pane) - 224), (left + 0.5) / (pane.shape[1] - 224)]
        for which, pane, (top, left) in zip((0, 1, 3, 4), panes, places)
    ]
    monkeypatch.setattr(weather, "uniform", Fed(torch.tensor(shares).T))
    parts = [pane[top : top + 224, left : left + 224] for pane, (top, left) in zip(panes, places)]
    expected = (own * large.astype(float) + ice * np.stack(parts)).clip(0, 255)
    assert np.abs(ours(large, "frost", severity, frost=photographs) - expected).max() <= 1


def test_the_sixth_photograph_of_the_benchmark_is_never_drawn(tmp_path, photographs):
    """Its scripts draw a number below 5. A folder of other photographs is used whole."""
    assert len(photographs.panes) == len(procedural_frost().panes) == 5
    for number in range(6):
        shutil.copy(PHOTOGRAPHS / "frost6.jpg", tmp_path / f"window{number}.jpg")
    assert len(read_frost(tmp_path).panes) == 6


@every_severity
def test_frost_on_small_images_shrinks_the_photographs_to_a_fifth(
    small, photographs, severity, monkeypatch
):
    own, ice = SMALL_FROST[severity - 1]
    file = cv2.imread(str(PHOTOGRAPHS / "frost1.png"))[..., ::-1]
    pane = cv2.resize(file, (0, 0), fx=0.2, fy=0.2).astype(float)
    top, left = 40, 100
    shares = [
        [0.01, (top + 0.5) / (pane.shape[0] - 32), (left + 0.5) / (pane.shape[1] - 32)]
    ] * len(small)
    monkeypatch.setattr(weather, "uniform", Fed(torch.tensor(shares).T))
    expected = (own * small.astype(float) + ice * pane[top : top + 32, left : left + 32]).clip(
        0, 255
    )
    assert np.abs(ours(small, "frost", severity, frost=photographs) - expected).max() <= 2


@every_severity
def test_procedural_frost_changes_pixels_as_much_as_the_photographs(large, severity, photographs):
    """Pane by pane, because panes differ; the photographs' figures are the benchmark's (above)."""
    result, expected = (
        np.mean(
            [
                [changed.mean(), np.abs(changed).mean(), changed.std()]
                for pane in panes.panes
                for image in [large.repeat(4, axis=0)]
                for changed in [change(image, ours(image, "frost", severity, frost=Frost([pane])))]
            ],
            axis=0,
        )
        for panes in (procedural_frost(), photographs)
    )
    assert result == pytest.approx(expected, rel=0.05)


def test_procedural_frost_is_rough_at_all_scales_as_the_photographs_are(photographs):
    def correlations(panes):
        greys = [pane.float().mean(0) for pane in panes]
        greys = [(grey - grey.mean()) / grey.std() for grey in greys]
        return np.array(
            [[(g[:, :-lag] * g[:, lag:]).mean() for lag in (1, 4, 16, 64)] for g in greys]
        )

    result, real = (
        correlations(procedural_frost().panes),
        correlations(photographs.panes),
    )
    assert (result.mean(0) > real.min(0) - 0.1).all() and (result.mean(0) < real.max(0) + 0.1).all()


def test_each_pane_is_seen_and_images_larger_than_a_pane_enlarge_it():
    panes = [torch.full((3, 20, 30), value, dtype=torch.uint8) for value in (0, 100, 200)]
    black = torch.zeros(60, 1, 70, 90, dtype=torch.uint8)
    result = corrupt(black, "frost", 1, 0, frost=Frost(panes))
    assert sorted(result.unique().tolist()) == [0, 40, 80]


def test_a_folder_without_frost_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no images of frost; known endings: .apng, "):
        read_frost(tmp_path)
    (tmp_path / "frost1.png").write_bytes(b"no image")
    with pytest.raises(
        UserError, match="an image of frost in .* cannot be read: not in a known image format"
    ):
        read_frost(tmp_path)


# --- fog ------------------------------------------------------------------------------------------


def fractal_draws(count, size, seed):
    """Draw uniform numbers in [0, 1), [count, ...], in the order of a fractal map of this size."""
    rng = np.random.default_rng(seed)
    sides = [2**k for k in range(size.bit_length() - 1)]
    return [rng.random((count, side, side)) for side in sides for _ in range(3)]


@every_severity
def test_fog_with_the_benchmarks_draws(large, severity, monkeypatch):
    draws = fractal_draws(len(large), 256, severity)
    fed = Fed(*(draw[place] for place in range(len(large)) for draw in draws))
    monkeypatch.setattr(np.random, "uniform", lambda low, high, shape: low + (high - low) * fed())
    expected = [imagecorruptions.corrupt(image, severity, "fog") for image in large]
    monkeypatch.setattr(torch, "rand", Fed(*(torch.from_numpy(draw).float() for draw in draws)))
    assert np.abs(ours(large, "fog", severity).astype(int) - np.stack(expected)).max() <= 1


@pytest.mark.parametrize("decay", [3, 2, 1.4])
def test_the_fractal_map_has_the_benchmarks_statistics(decay):
    np.random.seed(0)
    expected = np.stack([plasma_fractal(64, decay) for _ in range(300)])
    result = textures.plasma(
        300, 64, decay, torch.Generator().manual_seed(0), torch.device("cpu")
    ).numpy()
    assert result.min(axis=(1, 2)).max() == 0 and result.max(axis=(1, 2)).min() == 1
    for statistic in (
        lambda maps: maps.mean(),
        lambda maps: maps.std(axis=(1, 2)).mean(),
        lambda maps: np.abs(np.diff(maps, axis=1)).mean(),
        lambda maps: np.abs(np.diff(maps, axis=2)).mean(),
        lambda maps: np.abs(maps - np.roll(maps, 16, axis=2)).mean(),
    ):
        assert statistic(result) == pytest.approx(statistic(expected), rel=0.05)
