"""Every way of calibration against searches on a grid, on real digits that get noisier."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance
from sklearn.datasets import load_digits

from prosmin.common.errors import UserError
from prosmin.evaluation import linear_probe, recalibration
from prosmin.evaluation.laplace import Posterior, moderate
from prosmin.evaluation.recalibration import Recalibration
from prosmin.evaluation.ways import WAYS
from prosmin.metrics import calibration, classification

PIXELS, LABELS = load_digits(return_X_y=True)
PIXELS = PIXELS[:, 10:40]
TRAIN, VAL, TEST = slice(0, 700), slice(700, 1200), slice(1200, 1797)
SPREAD = (0, 2, 4, 6)  # standard deviations of the noise, of 16 grey levels


def noisy(rows, seed):
    """Features and labels of images without and with noise."""
    rng = np.random.default_rng(seed)
    parts = [PIXELS[rows] + rng.normal(0, spread, PIXELS[rows].shape) for spread in SPREAD]
    return np.concatenate(parts), np.tile(LABELS[rows], len(parts))


@pytest.fixture(scope="module")
def probe():
    fitted = linear_probe.fit(PIXELS[TRAIN], LABELS[TRAIN], 10, 0.001)
    held = fitted.logits(PIXELS[VAL])
    temperature = calibration.fit_temperature(held, LABELS[VAL])
    return replace(fitted, temperature=temperature)


@pytest.fixture(scope="module")
def posterior(probe):
    return Posterior.fit(probe, [(PIXELS[TRAIN], LABELS[TRAIN])])


@pytest.fixture(scope="module")
def mixed():
    return noisy(VAL, 0)


@pytest.fixture(scope="module")
def ways(probe, posterior, mixed):
    return recalibration.fit(probe, posterior, (PIXELS[VAL], LABELS[VAL]), mixed)


def test_it_has_every_method_and_keeps_the_classes_of_all_but_laplace(probe, ways):
    logits = ways.logits(probe, PIXELS[TEST])
    raw = probe.logits(PIXELS[TEST])
    assert list(logits) == list(WAYS)
    np.testing.assert_array_equal(logits["raw"], raw)
    np.testing.assert_allclose(logits["temperature"], raw / probe.temperature)
    for name, values in logits.items():
        same = (values.argmax(axis=1) == raw.argmax(axis=1)).mean()
        assert same == 1 or (name.startswith("laplace") and same > 0.9), name


def test_the_document_has_the_definitions_of_the_registry():
    document = (Path(__file__).parents[3] / "docs/evaluation.md").read_text()
    assert "\n".join(f"| `{name}` | {what} |" for name, what in WAYS.items()) in document


def test_the_distance_is_that_of_mahalanobis_under_a_shrunk_second_moment(probe, posterior):
    inputs = np.column_stack([(PIXELS - probe.mean) / probe.std, np.ones(len(PIXELS))])
    moment = EmpiricalCovariance(assume_centered=True).fit(inputs[TRAIN]).covariance_
    share = recalibration.SHRINKAGE
    shrunk = (1 - share) * moment + share * np.trace(moment) / len(moment) * np.eye(len(moment))
    expected = np.log(np.einsum("nf,fg,ng->n", inputs, np.linalg.inv(shrunk), inputs))
    found = recalibration.log_distance(posterior, posterior.squares(probe, PIXELS))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_temperature_by_distance_has_the_lowest_nll_of_a_grid(probe, posterior, ways, mixed):
    logits, labels = probe.logits(mixed[0]), mixed[1]
    distance = recalibration.log_distance(posterior, posterior.squares(probe, mixed[0]))
    away = (distance - ways.mean) / ways.spread

    def nll(level, slope):
        return classification.nll(logits / np.exp(level + slope * away)[:, None], labels)

    best = nll(ways.level, ways.slope)
    steps = (-0.1, -0.01, 0.01, 0.1)
    around = [nll(ways.level + a, ways.slope + b) for a in steps for b in steps]
    assert best < min(around) and ways.slope > 0
    one = classification.nll(logits / ways.shifted, labels)
    assert best < one < classification.nll(logits / probe.temperature, labels)


def test_the_prior_has_the_lowest_nll_of_its_grid(probe, posterior, ways, mixed):
    for held, chosen in (
        ((PIXELS[VAL], LABELS[VAL]), ways.precision),
        (mixed, ways.precision_shifted),
    ):
        squares, logits = posterior.squares(probe, held[0]), probe.logits(held[0])
        nll = {
            precision: classification.nll(
                moderate(logits, posterior.variances(squares, precision)), held[1]
            )
            for precision in recalibration.PRECISIONS
        }
        assert nll[chosen] == min(nll.values())


def test_on_noisier_images_than_those_of_val_the_answers_to_shift_are_better(probe, ways):
    """Not on clean ones: there a temperature of shifted images is too high."""
    features, labels = noisy(TEST, 1)
    nll = {
        name: classification.nll(logits, labels)
        for name, logits in ways.logits(probe, features).items()
    }
    assert nll["temperature_distance"] < nll["temperature_shifted"] < nll["temperature"]
    assert nll["laplace_shifted"] < nll["raw"]
    clean = {
        name: classification.nll(logits, LABELS[TEST])
        for name, logits in ways.logits(probe, PIXELS[TEST]).items()
    }
    assert clean["temperature"] < clean["temperature_shifted"]


def test_it_is_read_back_as_it_was_written_and_damage_is_one_sentence(tmp_path, probe, ways):
    ways.save(tmp_path / "ways.safetensors")
    again = Recalibration.load(tmp_path / "ways.safetensors")
    for name, values in again.logits(probe, PIXELS[TEST]).items():
        np.testing.assert_array_equal(values, ways.logits(probe, PIXELS[TEST])[name])
    content = (tmp_path / "ways.safetensors").read_bytes()
    (tmp_path / "ways.safetensors").write_bytes(content[:-9])
    with pytest.raises(UserError, match="ways.safetensors"):
        Recalibration.load(tmp_path / "ways.safetensors")
