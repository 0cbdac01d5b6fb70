"""The modules for ``evaluate`` against torchmetrics, scikit-learn and hand-worked values."""

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as oracle
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from prosmin.common.errors import UserError
from prosmin.metrics import huggingface
from prosmin.metrics.catalogue import entry_of
from prosmin.metrics.classification import softmax

RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(300, 7))
LABELS = np.where(RNG.random(300) < 0.6, LOGITS.argmax(1), RNG.integers(0, 7, 300))
PROBABILITIES = softmax(LOGITS)
MU, SIGMA, VALUES = RNG.normal(size=(50, 3)), RNG.uniform(0.5, 2, (50, 3)), RNG.normal(size=(50, 3))


def torch_says(function, given, **how):
    return float(function(torch.tensor(given), torch.tensor(LABELS), num_classes=7, **how))


@pytest.mark.parametrize(
    ("module", "given", "settings", "expected"),
    [
        (
            huggingface.Accuracy,
            LOGITS,
            {},
            torch_says(oracle.multiclass_accuracy, LOGITS, average="micro"),
        ),
        (
            huggingface.TopKAccuracy,
            LOGITS,
            {"k": 2},
            torch_says(oracle.multiclass_accuracy, LOGITS, top_k=2, average="micro"),
        ),
        (
            huggingface.NLL,
            LOGITS,
            {},
            float(torch.nn.functional.cross_entropy(torch.tensor(LOGITS), torch.tensor(LABELS))),
        ),
        (
            huggingface.Brier,
            PROBABILITIES,
            {},
            float(((PROBABILITIES - np.eye(7)[LABELS]) ** 2).sum(1).mean()),
        ),
        (
            huggingface.ECE,
            PROBABILITIES,
            {},
            torch_says(oracle.multiclass_calibration_error, PROBABILITIES),
        ),
    ],
)
def test_values_are_those_of_another_library(module, given, settings, expected):
    values = module().compute(predictions=given, references=LABELS, **settings)
    assert values == {module.name: pytest.approx(expected, abs=1e-6)}
    parts = module()
    for part in np.array_split(np.arange(len(LABELS)), 4):
        parts.add_batch(predictions=given[part], references=LABELS[part])
    assert parts.compute(**settings) == values


@pytest.mark.parametrize(
    "module",
    [
        huggingface.Accuracy,
        huggingface.NLL,
        huggingface.Brier,
        huggingface.ECE,
        huggingface.AdaptiveECE,
        huggingface.ClasswiseECE,
        huggingface.AURC,
    ],
)
def test_an_interval_comes_with_it_where_it_is_asked_for(module):
    name = module.name
    given = LOGITS if name in ("accuracy", "nll") else PROBABILITIES
    values = module().compute(predictions=given, references=LABELS, bootstrap=200, seed=1)
    assert list(values) == [name, f"{name}_low", f"{name}_high"]
    assert values[f"{name}_low"] < values[name] < values[f"{name}_high"]
    assert module().compute(predictions=given, references=LABELS, bootstrap=200, seed=1) == values


def test_ood_scores():
    scores, positive = RNG.normal(size=80) + np.repeat([0, 1], 40), np.repeat([0, 1], 40)
    values = huggingface.OODDetection().compute(predictions=scores, references=positive)
    assert list(values) == ["auroc", "aupr_ood", "aupr_id", "fpr95", "fpr95_ood"]
    assert values["auroc"] == pytest.approx(roc_auc_score(positive, scores))
    ranged = huggingface.OODDetection().compute(
        predictions=scores, references=positive, bootstrap=200
    )
    assert ranged["auroc_low"] < values["auroc"] < ranged["auroc_high"]
    with pytest.raises(UserError, match="references hold 2"):
        huggingface.OODDetection().compute(predictions=scores, references=positive + 1)


def test_predicted_distributions():
    together = np.concatenate([MU, SIGMA], axis=1)
    low, high = norm.interval(0.8, MU, SIGMA)
    values = huggingface.Coverage().compute(predictions=together, references=VALUES, level=0.8)
    assert values["coverage"] == pytest.approx(((low <= VALUES) & (high >= VALUES)).mean())
    grid = np.linspace(-20, 20, 40_001)
    by_hand = [
        ((norm.cdf(grid, m, s) - (grid >= y)) ** 2).sum() * (grid[1] - grid[0])
        for m, s, y in zip(MU.ravel(), SIGMA.ravel(), VALUES.ravel())
    ]
    assert huggingface.CRPS().compute(predictions=together, references=VALUES)[
        "crps"
    ] == pytest.approx(np.mean(by_hand), abs=1e-3)


@pytest.mark.parametrize(
    ("module", "given", "truth", "words"),
    [
        (
            huggingface.Accuracy,
            np.full((4, 3), np.nan),
            np.zeros(4, int),
            "4 of 4 samples are not finite",
        ),
        (huggingface.Brier, np.ones((4, 3)), np.zeros(4, int), "are not probabilities"),
        (huggingface.CRPS, np.ones((4, 3)), np.ones((4, 3)), "needed: .N, 2 D."),
        (huggingface.Coverage, np.zeros((4, 6)), np.ones((4, 3)), "standard deviation is 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(module, given, truth, words):
    with pytest.raises(UserError, match=words):
        module().compute(predictions=given, references=truth)


@pytest.mark.parametrize("module", huggingface.MODULES)
def test_a_module_describes_its_input_and_has_the_definition_of_the_catalogue(module):
    entry = entry_of(module.metric or module.name)
    assert "[N" in module.__doc__
    assert module().description == f"{entry.definition} Range {entry.range}. {module.__doc__}"
