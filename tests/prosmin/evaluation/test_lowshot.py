"""The low-shot probe."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from prosmin.common.errors import UserError
from prosmin.evaluation.label_subsets import few_labels
from prosmin.evaluation.lowshot import evaluate_lowshot, per_class_of, sizes, summarise
from prosmin.metrics.intervals import over_draws


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    features, order = features.astype(np.float32), np.random.default_rng(0).permutation(len(labels))
    return [(features[part], labels[part]) for part in np.split(order[:1200], [800])]


def test_each_draw_is_scikit_learns_probe_on_those_labels(digits):
    (features, labels), (queries, truth) = digits
    mean, std = features.mean(0), features.std(0)
    std[std == 0] = 1
    oracle = []
    for draw in range(3):
        rows = few_labels(labels, 5, 7, draw)
        model = LogisticRegression(C=1 / (50 * 0.1), tol=1e-8, max_iter=1000)
        model.fit((features[rows] - mean) / std, labels[rows])
        oracle.append(model.score((queries - mean) / std, truth))
    assert evaluate_lowshot(*digits, 5, 3, 0.1, seed=7) == pytest.approx(
        oracle, abs=1.5 / len(truth)
    )
    assert len(set(oracle)) > 1


def test_more_labels_are_better(digits):
    few, more = (np.mean(evaluate_lowshot(*digits, size, 5, 0.1, 0)) for size in (1, 20))
    assert few + 0.2 < more


def test_a_class_with_too_few_images_is_refused(digits):
    with pytest.raises(UserError, match="labelled images, fewer than the 200 asked for"):
        evaluate_lowshot(*digits, 200, 3, 0.1, 0)


@pytest.mark.parametrize(
    ("percent", "expected"), [(1, 1), (0.01, 1), (10, 10), (2.6, 3), (100, 100)]
)
def test_a_percentage_is_shared_evenly_with_at_least_one_label_a_class(percent, expected):
    assert per_class_of(percent, np.arange(1000) % 10) == expected


def test_a_setting_has_its_name_and_its_labels_per_class():
    labels = np.repeat(np.arange(10), 50)
    assert sizes([1, 5], [10, 0.5], labels) == {
        "per_class_1": 1,
        "per_class_5": 5,
        "percent_10": 5,
        "percent_0.5": 1,
    }


def test_a_summary_has_the_mean_over_draws_and_counts_the_labels():
    mean, low, high = over_draws([0.5, 0.6, 0.7], 200)
    assert summarise([0.5, 0.6, 0.7], 5, 10, 200) == {
        "accuracy": mean,
        "accuracy_low": low,
        "accuracy_high": high,
        "labels": 50,
        "draws": 3,
    }
