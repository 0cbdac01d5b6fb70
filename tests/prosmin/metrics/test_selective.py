"""The area under the risk-coverage curve by its definition, tie by tie, and by hand."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prosmin.common.errors import UserError
from prosmin.metrics import classification, intervals
from prosmin.metrics.selective import aurc


def two_classes(confidence, right):
    """Probabilities with this highest one, and labels that make the answer right or wrong."""
    probabilities = np.column_stack([confidence, 1 - np.asarray(confidence, float)])
    return probabilities, np.where(right, 0, 1)


def slow(confidence, right):
    """Mean share of errors among the first n, over n and over all orders of falling confidence."""
    areas = []
    for order in permutations(range(len(right))):
        if all(confidence[a] >= confidence[b] for a, b in zip(order, order[1:])):
            wrong = np.array([not right[index] for index in order])
            areas.append(np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1)))
    return np.mean(areas)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.6, 0.7, 0.8, 0.9]), st.booleans()), min_size=1, max_size=6
    )
)
@settings(max_examples=60, deadline=None)
def test_it_is_the_mean_over_all_orders_of_equal_confidences(samples):
    confidence, right = zip(*samples)
    assert aurc(*two_classes(confidence, right)) == pytest.approx(slow(confidence, right))


def test_by_hand():
    """Right, wrong, right from the most confident down: 0/1, 1/2, 1/3."""
    assert aurc(*two_classes([0.7, 0.9, 0.8], [True, True, False])) == pytest.approx(
        (0 + 1 / 2 + 1 / 3) / 3
    )


def test_sign_and_bounds():
    """Unsure errors are better than sure errors; a constant confidence gives the error rate."""
    confidence, right = np.linspace(0.6, 0.9, 50), np.arange(50) >= 10
    good, bad, none = (
        aurc(*two_classes(order, right))
        for order in (confidence, confidence[::-1], np.full(50, 0.7))
    )
    assert 0 < good < none < bad < 1
    assert none == pytest.approx(0.2)
    assert aurc(*two_classes(confidence, np.full(50, True))) == 0
    assert aurc(*two_classes(confidence, np.full(50, False))) == 1


@pytest.mark.parametrize("margin", [8, 14, 20, 26, 40])
def test_sure_answers_keep_their_order(margin):
    """Two classes whose logits differ by about the margin: the area is that of the margins."""
    rng = np.random.default_rng(0)
    margins = margin + rng.normal(size=200) * 3
    right = margins + rng.normal(size=200) * 3 > margin - 3
    logits = np.column_stack([margins, np.zeros(200)])
    ranks = margins.argsort().argsort()
    area = aurc(classification.softmax(logits), np.where(right, 0, 1))
    assert area == pytest.approx(aurc(*two_classes(0.6 + 0.3 * ranks / 200, right)), abs=1e-12)


def test_a_resample_by_counts_is_the_value_of_the_repeated_samples():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 60)
    labels = rng.integers(0, 4, 60)
    for counts in intervals.resamples(60, 3, 0):
        expected = [
            aurc(
                *(np.repeat(values, row.astype(int), axis=0) for values in (probabilities, labels))
            )
            for row in counts
        ]
        np.testing.assert_allclose(aurc(probabilities, labels, counts), expected)


def test_nan_is_refused():
    with pytest.raises(UserError, match="1 of 2 samples are not finite"):
        aurc(np.array([[0.5, np.nan], [0.5, 0.5]]), np.zeros(2, int))
