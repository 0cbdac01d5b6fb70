"""Digits as features with labels and a probe, for the tests of OOD detectors."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from prosmin.evaluation.ood_detectors import Sample


@pytest.fixture(scope="module")
def ood_digits():
    """Digits 0-7 as training and ID test images, 8 and 9 as OOD images.

    The raw pixels stand in for features. A little noise makes the covariance of constant pixels
    invertible.
    """
    pixels, labels = load_digits(return_X_y=True)
    features = (pixels + np.random.default_rng(0).normal(size=pixels.shape)).astype(np.float32)
    known = labels < 8
    probe = LogisticRegression(max_iter=300).fit(features[known][:900], labels[known][:900])

    def sample(part):
        logits = probe.decision_function(features[part]).astype(np.float32)
        sigma, head = features[part].mean(1), (probe.coef_, probe.intercept_)
        return Sample(
            features[part], log_sigma=sigma, logits=logits, labels=labels[part], head=head
        )

    inside = np.flatnonzero(known)
    return sample(inside[:900]), sample(inside[900:]), sample(np.flatnonzero(~known))
