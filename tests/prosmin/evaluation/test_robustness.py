"""An observer fed by hand, and its summary in numbers that can be worked out on paper."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from prosmin.data.dataset import Split
from prosmin.evaluation.linear_probe import Probe
from prosmin.evaluation.robustness import Observer, benchmark_types, summarise

DIGITS = torch.tensor(load_digits().images[:50] / 16 * 255).round().byte().unsqueeze(1)
ENDS = ("low", "high")
TYPES, SEVERITIES = ("fog", "saturate"), (1, 4)  # the second is an extra type


def features(images):
    """The two features of an image: its mean, and 1 less its mean."""
    mean = images.float().mean((1, 2, 3))[:, None] / 255
    return torch.cat([mean, 1 - mean], 1).numpy()


@pytest.fixture
def split():
    """Ten dark images of class 0 and ten bright ones of class 1."""
    grey = torch.tensor([20] * 10 + [230] * 10, dtype=torch.uint8)
    return Split(
        grey[:, None, None, None].expand(20, 1, 2, 2), torch.arange(20) // 10, ("dark", "bright")
    )


def observed(split, probe, paired=True):
    """All cells hold the clean images, but fog at severity 4, where every image is bright."""
    observer = Observer(features(split.images), probe, split, paired, (2, 2))
    for row in range(2):
        for column in range(2):
            images = split.images.clone()
            if (row, column) == (0, 1):
                images[:] = 230
            observer.see((row, column), features(images), split.labels.numpy())
    return observer


@pytest.fixture
def probe():
    one = np.ones(2, np.float32)
    return Probe(np.array([[-9, 9], [9, -9]], np.float32), 0 * one, 0 * one, one, threshold=0.0)


def test_a_cell_has_its_accuracy_ece_and_similarity(split, probe):
    observer = observed(split, probe)
    assert observer.cell(0, 0)[0] == 1 and observer.cell(0, 1)[0] == 0.5
    assert observer.cell(0, 0)[2] == pytest.approx(1) and observer.cell(0, 1)[2] < 0.1
    assert observer.mean(0) == 0.75 and observer.mean(1) == 1
    unpaired = observed(split, probe, paired=False)
    assert unpaired.cell(0, 1)[:2] == observer.cell(0, 1)[:2] and unpaired.cell(0, 1)[2] == ""
    bare = observed(split, None)
    assert bare.cell(0, 1)[:2] == ("", "") and bare.cell(0, 1)[2] == observer.cell(0, 1)[2]


def test_a_summary_keeps_the_extra_types_apart(split, probe):
    observer = observed(split, probe)
    summary = summarise(observer, observer.measured, TYPES, SEVERITIES, 100, 0)
    assert summary["accuracy_clean"] == 1 and summary["mce_unnormalised"] == 0.25
    assert summary["mce_unnormalised_extra"] == 0
    assert summary["mce"] == summary["mce_low"] == summary["mce_high"] == 1  # its own reference
    assert summary["ece_severity_1"] < 0.1 and summary["ece_severity_4"] == pytest.approx(
        0.5, abs=0.1
    )
    for severity, coverage in ((1, 1.0), (4, 0.5)):
        assert summary[f"conformal_coverage_severity_{severity}"] == coverage
        assert summary[f"conformal_size_severity_{severity}"] == 1
        for name in ("coverage", "size"):
            low, high = (summary[f"conformal_{name}_severity_{severity}_{end}"] for end in ENDS)
            assert low <= summary[f"conformal_{name}_severity_{severity}"] <= high
    assert benchmark_types(TYPES) == ["fog"]


def test_without_a_probe_the_features_alone_are_summarised(split):
    summary = summarise(observed(split, None), None, TYPES, SEVERITIES, 100, 0)
    assert set(summary) == {f"feature_similarity{end}" for end in ("", "_low", "_high")}


# --- parts side by side ---------------------------------------------------------------------------
