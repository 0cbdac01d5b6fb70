import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from prosmin.training.watch import diagnostics


def test_rankme_of_orthonormal_features_is_their_number_and_of_one_direction_is_one():
    assert diagnostics.rankme(torch.eye(12)) == pytest.approx(12, rel=1e-4)
    assert diagnostics.rankme(torch.ones(20, 5)) == pytest.approx(1, abs=1e-3)


def test_rankme_of_known_singular_values_is_worked_by_hand():
    # shares 3/4 and 1/4: exp(entropy) = exp(0.75 ln(4/3) + 0.25 ln 4)
    expected = math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert diagnostics.rankme(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(
        expected, rel=1e-4
    )


def test_feature_std_is_one_on_the_sphere_and_zero_at_collapse():
    spread = torch.randn(20_000, 32, generator=torch.Generator().manual_seed(0))
    assert diagnostics.feature_std(spread) == pytest.approx(1, abs=0.01)
    assert diagnostics.feature_std(torch.ones(50, 32)) == pytest.approx(0, abs=1e-6)


def test_online_knn_with_equal_weights_agrees_with_scikit_learn():
    images, labels = load_digits(return_X_y=True)
    bank, queries = torch.tensor(images[:1000]), torch.tensor(images[1000:])
    oracle = (
        KNeighborsClassifier(1, metric="cosine")
        .fit(images[:1000], labels[:1000])
        .score(images[1000:], labels[1000:])
    )
    accuracy = diagnostics.knn_accuracy(
        bank, torch.tensor(labels[:1000]), queries, torch.tensor(labels[1000:]), k=1
    )
    assert accuracy == pytest.approx(oracle, abs=2 / len(queries))


def test_the_online_probe_agrees_with_ridge_regression_of_scikit_learn():
    images, labels = load_digits(return_X_y=True)  # some pixels are 0 in all images
    scale = StandardScaler().fit(images[:1000])
    ridge = Ridge(alpha=0.01 * 1000, solver="svd")
    ridge.fit(scale.transform(images[:1000]), np.eye(10)[labels[:1000]])
    chosen = ridge.predict(scale.transform(images[1000:])).argmax(1)
    parts = (images[:1000], labels[:1000], images[1000:], labels[1000:])
    accuracy = diagnostics.probe_accuracy(*map(torch.tensor, parts))
    assert accuracy == pytest.approx((chosen == labels[1000:]).mean(), abs=1e-6)
    assert accuracy > 0.85
    broken = torch.full((1000, 64), math.nan)
    assert diagnostics.probe_accuracy(broken, *map(torch.tensor, parts[1:])) <= 1


def test_sigma_summary_counts_what_stands_at_the_clamp():
    summary = diagnostics.sigma_summary(torch.tensor([[-4.0, 0.0], [2.0, 0.0]]), -4.0, 2.0)
    assert summary["sigma_clamped"] == 0.5
    assert summary["sigma_mean"] == pytest.approx(math.exp(-0.5))
