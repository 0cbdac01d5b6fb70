"""Faults planted among real digits are ranked first; neighbours and thresholds against oracles."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_image
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from prosmin.common.errors import ConfigError
from prosmin.evaluation import audit
from prosmin.evaluation.audit import Neighbourhood

PIXELS, LABELS = load_digits(return_X_y=True)
K, CLASSES = 20, 10
RNG = np.random.default_rng


def all_rows(features):
    return np.arange(len(features))


def digests(features):
    return np.array([hash(row.tobytes()) for row in features])


@pytest.fixture(scope="module")
def near():
    return Neighbourhood.find(PIXELS, all_rows(PIXELS), K)


def test_neighbours_are_those_of_scikit_learn_without_the_image_itself(near):
    rows = np.arange(5, 900, 7)
    some = Neighbourhood.find(PIXELS, rows, K)
    search = NearestNeighbors(n_neighbors=K).fit(
        PIXELS / np.linalg.norm(PIXELS, axis=1, keepdims=True)
    )
    distance, index = search.kneighbors(search._fit_X[rows], n_neighbors=K + 1)
    assert (index[:, 0] == rows).all()
    np.testing.assert_allclose(some.distance, distance[:, 1:], atol=1e-6)
    assert (some.index == index[:, 1:]).mean() > 0.999  # equal distances come in any order
    np.testing.assert_array_equal(some.index, near.index[rows])


def test_an_image_with_many_copies_is_never_its_own_neighbour():
    features = np.concatenate([np.repeat(PIXELS[:1], 8, axis=0), PIXELS[1:20]])
    near = Neighbourhood.find(features, all_rows(features), 3)
    assert (near.index != near.rows[:, None]).all() and near.index.shape == (27, 3)
    assert (near.distance[:8] == 0).all() and (near.index[:8] < 8).all()


@pytest.mark.parametrize("k", [0, 20, 25])
def test_a_k_without_enough_other_images_is_refused(k):
    with pytest.raises(ConfigError, match="there are 20 images; allowed: 1 to 19"):
        Neighbourhood.find(PIXELS[:20], all_rows(PIXELS[:20]), k)


def test_foreign_images_are_the_outliers():
    photograph, rng, foreign = load_sample_image("flower.jpg").mean(axis=2), RNG(0), []
    while len(foreign) < 8:
        top, left = rng.integers(0, 400, 2)
        patch = photograph[top : top + 8, left : left + 8]
        if patch.std() > 25:  # flat patches look all the same
            foreign.append(patch.ravel() / 16)
    features = np.concatenate([PIXELS, foreign])
    scores = audit.outlier_scores(Neighbourhood.find(features, all_rows(features), K))
    planted = all_rows(features) >= len(PIXELS)
    assert average_precision_score(planted, scores) > 0.95
    assert roc_auc_score(planted, scores) > 0.99
    # With fewer copies than neighbours the k-th neighbour of an outlier is another image.
    copied = np.concatenate([features, np.repeat(features[-1:], K - 1, axis=0)])
    again = audit.outlier_scores(Neighbourhood.find(copied, all_rows(copied), K))
    nearest = Neighbourhood.find(features, np.array([len(features) - 1]), 1).radius
    np.testing.assert_allclose(again[-K:], np.repeat(nearest, K), rtol=1e-6)


def test_copies_are_the_first_pairs_and_each_is_there_once():
    rng = RNG(0)
    originals, exact = rng.choice(len(PIXELS), (2, 20), replace=False)
    changed = PIXELS[originals] + rng.normal(0, 0.3, (20, 64))  # of 16 grey levels
    features = np.concatenate([PIXELS, changed, PIXELS[exact]])
    first_copy = len(PIXELS) + 20
    near = Neighbourhood.find(features, all_rows(features), K)
    pairs = audit.near_duplicates(near, digests(features))
    assert pairs.identical[:20].all() and not pairs.identical[20:].any()
    np.testing.assert_array_equal(pairs.second[:20], first_copy + np.arange(20))
    np.testing.assert_array_equal(pairs.first[:20], exact)
    planted = {(int(one), len(PIXELS) + place) for place, one in enumerate(originals)}
    ranked = list(zip(pairs.first.tolist(), pairs.second.tolist()))
    assert len(set(ranked)) == len(ranked) and (pairs.first < pairs.second).all()
    # A changed copy of an image with an exact copy makes a pair with both.
    found = [pair in planted for pair in ranked[20:40]]
    assert planted <= set(ranked) and np.mean(found) > 0.9
    assert (np.diff(pairs.ratio[20:]) >= 0).all() and pairs.ratio.max() <= audit.NEAR


def test_a_pair_of_audited_images_has_the_smaller_of_both_ratios_and_one_may_be_unaudited():
    features = np.concatenate([PIXELS, PIXELS[:1] + 0.05])
    copy, pair = len(PIXELS), (0, len(PIXELS))
    names = digests(features)

    def ratio(rows):
        near = Neighbourhood.find(features, np.array(rows), K)
        pairs = audit.near_duplicates(near, names)
        places = np.flatnonzero((pairs.first == pair[0]) & (pairs.second == pair[1]))
        return float(pairs.ratio[places][0])

    one, other = ratio([0]), ratio([copy])
    assert one != other and ratio([0, copy]) == min(one, other)


def confident_learning(shares, own):
    """Northcutt et al. 2021, eq. 2 and 3, by loops."""
    thresholds = {c: np.mean([s[c] for s, o in zip(shares, own) if o == c]) for c in set(own)}
    likely = []
    for share, label in zip(shares, own):
        passed = [c for c in thresholds if share[c] >= thresholds[c] and share[c] > 0]
        best = max(passed, key=lambda c: share[c], default=label)
        likely.append(best != label)
    return np.array(likely)


def test_flipped_labels_are_the_most_doubtful_and_thresholds_are_those_of_confident_learning(near):
    labels, wrong = audit.flip(LABELS, 0.05, CLASSES, RNG(0))
    assert len(wrong) == 90 and (labels[wrong] != LABELS[wrong]).all()
    assert (np.delete(labels, wrong) == np.delete(LABELS, wrong)).all()
    suspicion = audit.suspect_labels(near, labels, CLASSES)
    planted = np.isin(near.rows, wrong)
    assert roc_auc_score(planted, suspicion.score) > 0.98
    assert average_precision_score(planted, suspicion.score) > 0.9
    assert (suspicion.suggested[planted] == LABELS[planted]).mean() > 0.95
    shares = np.zeros((len(LABELS), CLASSES))
    for place in range(len(LABELS)):
        for neighbour, distance in zip(near.index[place], near.distance[place]):
            closeness = (distance / near.distance[place, -1]) ** 2
            shares[place, labels[neighbour]] += np.exp(-closeness / audit.TEMPERATURE)
    shares /= shares.sum(axis=1, keepdims=True)
    others = np.where(np.eye(CLASSES)[labels] == 1, 0, shares).max(axis=1)
    np.testing.assert_allclose(suspicion.score, others - shares[near.rows, labels], atol=1e-9)
    np.testing.assert_array_equal(suspicion.likely, confident_learning(shares, labels))
    assert suspicion.likely[planted].mean() > 0.75 and suspicion.likely[~planted].mean() < 0.02


def test_a_class_without_audited_images_is_never_likely():
    rows = np.flatnonzero(LABELS != 3)
    near = Neighbourhood.find(PIXELS, rows, K)
    labels, _ = audit.flip(LABELS, 0.3, CLASSES, RNG(0))
    labels[rows] = np.where(labels[rows] == 3, 4, labels[rows])
    suspicion = audit.suspect_labels(near, labels, CLASSES)
    assert np.isfinite(suspicion.score).all() and not suspicion.likely[labels[rows] == 3].any()


def test_blocks_change_nothing(near, monkeypatch):
    whole = audit.suspect_labels(near, LABELS, CLASSES)
    monkeypatch.setattr(audit, "rows_at_once", lambda *widths: 100)
    for key, values in vars(audit.suspect_labels(near, LABELS, CLASSES)).items():
        np.testing.assert_array_equal(values, getattr(whole, key))
