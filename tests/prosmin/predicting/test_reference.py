"""Fitted detectors against the functions of the evaluation; thresholds and percentiles by hand."""

import numpy as np
import pytest

from prosmin.common.errors import UserError
from prosmin.evaluation.ood_detectors import Sample, Settings
from prosmin.evaluation.ood_scores import Fitted
from prosmin.predicting import reference
from prosmin.predicting.reference import Detectors, Reference, fit

SETTINGS = Settings(k=4, seed=5)


def sample(count, seed, labelled=True):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    features = rng.normal(size=(count, 6)) + 2 * np.eye(6)[labels]
    return Sample(features.astype(np.float32), labels=labels if labelled else None)


def joined(first, second):
    parts = zip((first.features, first.labels), (second.features, second.labels))
    features, labels = (np.concatenate(part) for part in parts)
    return Sample(features, labels=labels)


def test_the_scores_are_those_of_the_evaluation_to_the_bit():
    train, val, query = sample(80, 0), sample(40, 1), sample(30, 2)
    known = fit(train, val, SETTINGS)
    scores, distances, rows = known.detectors.score(query.features)
    expected = Fitted.fit(joined(train, val), SETTINGS).score(query)
    assert list(scores) == list(known.detectors.names) == ["knn", "mahalanobis", "combined"]
    for name, values in scores.items():
        np.testing.assert_array_equal(values, expected[name])
    assert distances.shape == rows.shape == (30, 4) and (np.diff(distances) >= 0).all()
    assert known.detector == "combined"


def test_held_out_scores_come_from_detectors_that_have_not_seen_the_images():
    train, val = sample(80, 0), sample(40, 1)
    expected = Fitted.fit(train, SETTINGS).score(val)
    for name, values in fit(train, val, SETTINGS).held.items():
        np.testing.assert_array_equal(values, np.sort(expected[name]))


def test_detectors_that_were_fitted_before_are_taken():
    train, val = sample(80, 0), sample(40, 1)
    fitted = Fitted.fit(joined(train, val), SETTINGS)
    given, own = fit(train, val, SETTINGS, fitted), fit(train, val, SETTINGS)
    assert given.threshold == own.threshold and given.detectors.k == own.detectors.k
    assert given.detectors.standards == own.detectors.standards
    query = sample(30, 2).features
    for name, values in given.detectors.score(query)[0].items():
        np.testing.assert_array_equal(values, own.detectors.score(query)[0][name])


def test_without_labels_the_neighbours_alone_are_used():
    train, val = sample(80, 0, labelled=False), sample(40, 1, labelled=False)
    known = fit(train, val, SETTINGS)
    assert known.detectors.names == ("knn",) and known.detector == "knn"
    assert set(known.held) == {"knn"} and len(known.held["knn"]) == 40


def test_without_val_a_fifth_of_train_is_held_out(monkeypatch):
    assert len(fit(sample(80, 0), None, SETTINGS).held["knn"]) == 16
    monkeypatch.setattr(reference, "HELD_OUT", 7)
    assert len(fit(sample(80, 0), None, SETTINGS).held["knn"]) == 7
    assert len(fit(sample(80, 0), sample(40, 1), SETTINGS).held["knn"]) == 7
    with pytest.raises(UserError, match="4 training images are too few"):
        fit(sample(4, 0, labelled=False), None, SETTINGS)


def test_the_threshold_accepts_95_percent_and_percentiles_count_the_images_below():
    detectors = Detectors.fit(sample(20, 0, labelled=False), SETTINGS)
    known = Reference(detectors, {"knn": np.arange(1.0, 101.0)})
    assert known.threshold == 95
    np.testing.assert_array_equal(
        known.percentiles(np.array([0, 1, 1.5, 50, 100, 7000])), [0, 1, 1, 50, 100, 100]
    )


def test_new_images_of_the_same_kind_are_accepted_as_often_as_said():
    shares = []
    for seed in range(20):
        known = fit(sample(100, 3 * seed), sample(100, 3 * seed + 1), SETTINGS)
        scores, _, _ = known.detectors.score(sample(200, 3 * seed + 2).features)
        shares.append((scores["combined"] > known.threshold).mean())
    assert 0.02 < np.mean(shares) < 0.08
