"""The linear probe against scikit-learn, and the protocol: select on val, refit, read test once."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from prosmin.common.compute import logistic
from prosmin.common.compute.logistic import standardisation
from prosmin.common.errors import UserError
from prosmin.evaluation.linear_probe import Probe, evaluate_probe, fit, select
from prosmin.metrics import calibration, classification, conformal
from prosmin.metrics.catalogue import CALIBRATED, of_group

GRID = [1e-4, 1e-3, 1e-2, 0.1, 1.0]


@pytest.fixture(scope="module")
def digits():
    """(train, val, test) of raw pixels, some of which are constant."""
    features, labels = load_digits(return_X_y=True)
    features, order = features.astype(np.float32), np.random.default_rng(0).permutation(len(labels))
    return [(features[part], labels[part]) for part in np.split(order[:1000], [500, 700])]


def standardise(features):
    std = features.std(0)
    return (features - features.mean(0)) / np.where(std == 0, 1, std)


@pytest.mark.parametrize("l2", [1e-3, 0.1, 10.0])
def test_the_fit_is_scikit_learns_optimum(digits, l2):
    features, labels = digits[0]
    probe = fit(features, labels, 10, l2)
    inputs = standardise(features.astype(np.float64))
    oracle = LogisticRegression(C=1 / (len(labels) * l2), tol=1e-10, max_iter=10_000).fit(
        inputs, labels
    )
    np.testing.assert_allclose(probe.weight, oracle.coef_, atol=2e-3 * np.abs(oracle.coef_).max())
    np.testing.assert_allclose(
        classification.softmax(probe.logits(features)), oracle.predict_proba(inputs), atol=1e-3
    )


def test_duplicating_the_samples_does_not_change_what_l2_means(digits):
    features, labels = digits[0]
    once = fit(features, labels, 10, 0.01)
    thrice = fit(np.tile(features, (3, 1)), np.tile(labels, 3), 10, 0.01)
    np.testing.assert_allclose(once.weight, thrice.weight, atol=1e-4)


def test_scale_and_offset_of_a_feature_do_not_matter(digits):
    features, labels = digits[0]
    scale, offset = np.random.default_rng(0).uniform(
        [[0.1], [-5]], [[10], [5]], size=(2, features.shape[1])
    )
    one = fit(features, labels, 10, 0.01).logits(digits[1][0])
    other = fit(features * scale + offset, labels, 10, 0.01).logits(digits[1][0] * scale + offset)
    np.testing.assert_allclose(one, other, atol=1e-2)


def test_a_feature_that_is_constant_up_to_rounding_gets_no_weight_on_other_samples():
    rng = np.random.default_rng(0)
    nearly = 1000 + rng.integers(-1, 2, 100) * 1e-4
    features = np.stack([np.full(100, 0.1), nearly, np.zeros(100), rng.normal(size=100)], 1).astype(
        np.float32
    )
    assert standardisation(features)[1].tolist()[:3] == [1, 1, 1]
    probe = fit(features, (features[:, 3] > 0).astype(int), 2, 0.01)
    np.testing.assert_allclose(probe.weight[:, :3], 0, atol=1e-3)


def test_a_saved_probe_gives_the_same_logits_and_the_same_bytes(digits, tmp_path):
    probe = replace(fit(*digits[0], 10, 0.01), threshold=0.1)
    for name in ("one", "other"):
        probe.save(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (
        tmp_path / "other.safetensors"
    ).read_bytes()
    loaded = Probe.load(tmp_path / "one.safetensors")
    assert (
        np.array_equal(loaded.logits(digits[2][0]), probe.logits(digits[2][0]))
        and loaded.temperature == 1
        and loaded.threshold == 0.1
    )
    replace(probe, threshold=np.inf).save(tmp_path / "few.safetensors")
    assert Probe.load(tmp_path / "few.safetensors").threshold == np.inf


def held_out(digits, l2):
    """The NLL on val of the probe of train, fitted alone."""
    train, val, _ = digits
    return classification.nll(fit(*train, 10, l2).logits(val[0]), val[1])


@pytest.mark.parametrize("grid", [GRID, GRID[::-1], [1e-7, 1e-6, 1e-5, *GRID, 10.0, 100.0]])
def test_the_chosen_l2_has_the_lowest_held_out_nll_of_probes_fitted_alone(digits, caplog, grid):
    train, val, _ = digits
    best, probe = select(train, val, 10, grid)
    assert best == min(grid, key=lambda l2: held_out(digits, l2))
    alone = classification.softmax(fit(*train, 10, best).logits(val[0]))
    np.testing.assert_allclose(classification.softmax(probe.logits(val[0])), alone, atol=2e-3)
    assert not caplog.text


def test_an_edge_of_the_grid_is_told(digits, caplog):
    train, val, _ = digits
    assert select(train, val, 10, [1.0, 0.1])[0] == 0.1
    assert "l2 0.1, at the edge of its grid" in caplog.text
    caplog.clear()
    assert select(train, val, 10, [1.0])[0] == 1.0 and not caplog.text


def test_a_small_rise_on_the_way_does_not_end_the_search(digits, monkeypatch):
    """The last NLL is the lowest here. The search passes a rise below ``RISE``, but none above."""
    train, val, _ = digits
    for rise, expected in ((1.005, 0.01), (1.02, 1.0)):
        errors = iter((0.5, 0.5 * rise, 0.4))
        with monkeypatch.context() as patch:
            patch.setattr(classification, "nll", lambda logits, labels, errors=errors: next(errors))
            assert select(train, val, 10, [1.0, 0.1, 0.01])[0] == expected


def test_the_protocol_selects_on_val_and_refits_on_train_and_val(digits):
    train, val, test = digits
    result = evaluate_probe(train, val, test, GRID, 100, 0)
    l2, selected = select(train, val, 10, GRID)
    assert result.metrics["l2"] == l2
    seen = selected.logits(val[0])
    temperature = calibration.fit_temperature(seen, val[1])
    assert (
        result.probe.temperature
        == result.metrics["temperature"]
        == pytest.approx(temperature, rel=1e-6)
    )
    calibrated = classification.softmax(seen / result.probe.temperature)
    assert result.probe.threshold == conformal.fit_threshold(calibrated, val[1])
    assert result.metrics["accuracy_val"] == classification.accuracy(seen, val[1])
    assert result.metrics["n_val"] == len(val[1])
    both = [np.concatenate(parts) for parts in zip(train, val, strict=True)]
    # Fitted from the selected weights on, and not from zero as here.
    alone = classification.softmax(fit(*both, 10, l2).logits(test[0]))
    np.testing.assert_allclose(
        classification.softmax(result.probe.logits(test[0])), alone, atol=1e-3
    )


def test_nothing_is_fitted_to_the_test_split(digits):
    train, val, (features, labels) = digits
    one = evaluate_probe(train, val, (features, labels), GRID, 100, 0)
    other = evaluate_probe(train, val, (features[::-1] * 3, labels), GRID, 100, 0)
    assert (
        np.array_equal(one.probe.weight, other.probe.weight)
        and one.probe.temperature == other.probe.temperature
    )
    assert other.metrics["accuracy"] < one.metrics["accuracy"]


def test_the_report_holds_each_metric_of_the_probe_with_its_interval(digits):
    test = digits[2]
    result = evaluate_probe(*digits, GRID, 100, 0)
    reported, logits = result.metrics, result.probe.logits(test[0])
    calibrated = classification.softmax(logits / reported["temperature"])
    assert reported["accuracy"] == classification.accuracy(logits, test[1])
    assert reported["accuracy_top5"] == classification.top_k_accuracy(logits, test[1], 5)
    assert reported["nll"] == classification.nll(logits, test[1])
    assert reported["ece"] == calibration.ece(classification.softmax(logits), test[1])
    assert reported["brier_calibrated"] == classification.brier(calibrated, test[1])
    assert reported["ece_adaptive_calibrated"] == calibration.ece_adaptive(calibrated, test[1])
    sets = conformal.prediction_sets(calibrated, result.probe.threshold)
    assert reported["conformal_coverage"] == conformal.coverage(sets, test[1])
    assert reported["conformal_size"] == sets.sum() / 300
    assert reported["n"] == 300
    scored = set(reported) - {"n", "l2", "temperature", "n_val", "accuracy_val"}
    names = {name for name in scored if not name.endswith(("_low", "_high"))}
    groups = (*of_group("classification"), *of_group("conformal"))
    assert names == {*groups, *(f"{name}_calibrated" for name in CALIBRATED)}
    assert scored == {name + end for name in names for end in ("", "_low", "_high")}
    assert all(
        reported[f"{name}_low"] <= reported[name] <= reported[f"{name}_high"] for name in names
    )
    for kind, probabilities in (
        ("raw", classification.softmax(logits)),
        ("calibrated", calibrated),
    ):
        rows = [row[1:] for row in result.reliability if row[0] == kind]
        assert rows == calibration.reliability(probabilities, test[1])


def test_top_5_is_reported_for_more_than_five_classes_only(digits):
    few = [(features[labels < 5], labels[labels < 5]) for features, labels in digits]
    six = [(features[labels < 6], labels[labels < 6]) for features, labels in digits]
    assert "accuracy_top5" not in evaluate_probe(*few, [0.01], 100, 0).metrics
    assert "accuracy_top5" in evaluate_probe(*six, [0.01], 100, 0).metrics


def test_features_that_are_not_finite_are_refused(digits):
    features = digits[0][0].copy()
    features[3, 7] = np.nan
    with pytest.raises(UserError, match="not finite"):
        fit(features, digits[0][1], 10, 0.01)


def test_a_probe_refuses_features_of_another_width(digits):
    with pytest.raises(UserError, match=r"shape \(200, 63\); the probe was fitted to \[N, 64\]"):
        fit(*digits[0], 10, 0.1).logits(digits[1][0][:, 1:])


def test_a_fit_that_does_not_converge_is_told(digits, caplog, monkeypatch):
    monkeypatch.setattr(logistic, "ITERATIONS", 5)
    fit(*digits[0], 10, 0.01)
    assert "the probe with l2 0.01 has not converged after 5 iterations" in caplog.text
