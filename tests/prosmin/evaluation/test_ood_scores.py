"""The registry of detectors, combined scores, and what missing fields leave out."""

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from prosmin.common import files
from prosmin.common.compute.stacked import Stack
from prosmin.common.errors import UserError
from prosmin.common.seeds import sample_rows
from prosmin.evaluation import ood_scores, ood_statistics, prediction
from prosmin.evaluation.ood_detectors import Sample, Settings
from prosmin.evaluation.ood_scores import Fitted
from prosmin.metrics import detection

DEFAULTS = Settings()
COMBINED = [name for name, entry in ood_scores.DETECTORS.items() if entry.parts]
COMPUTED = [name for name, entry in ood_scores.DETECTORS.items() if entry.score]
LABEL_FREE = [name for name in COMPUTED if ood_scores.DETECTORS[name].label_free]
ALL = [*COMPUTED, *COMBINED]


def score_all(train, query, settings=DEFAULTS):
    return Fitted.fit(train, settings).score(query)


@pytest.fixture(scope="module")
def scores(ood_digits):
    train, *queries = ood_digits
    return [score_all(train, query) for query in queries]


@pytest.mark.parametrize("name", ALL)
def test_scores_are_high_where_the_answer_is_obvious(name):
    """ID: tight classes, a sure probe, small sigma. OOD: far off, an unsure probe, large sigma."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    centres = np.array([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    head = (np.array([[1.0, -1, 0], [-1, 1, 0]]), np.array([1.0, 0]))

    def sample(centres, log_sigma):
        features = centres + rng.normal(size=(60, 3)) / 10
        logits = features @ head[0].T + head[1]
        sigmas = log_sigma + rng.normal(size=60) / 10
        return Sample(features, log_sigma=sigmas, logits=logits, labels=labels, head=head)

    train, inside = (sample(centres[labels], -2.0) for _ in range(2))
    outside = sample(np.array([-1.0, -1.0, -4.0]), 1.0)  # of small norm as well
    low, high = (score_all(train, query)[name] for query in (inside, outside))
    metrics = detection.evaluate(low, high, resamples=100, seed=0)
    assert metrics["auroc"] == metrics["aupr_ood"] == metrics["aupr_id"] == 1.0
    assert metrics["fpr95"] == 0.0


def test_a_score_belongs_to_its_image_whatever_the_order_and_the_company(ood_digits, scores):
    train, inside, _ = ood_digits
    shuffled = np.random.default_rng(0).permutation(len(inside.features))[:50]
    again = score_all(train, inside.rows(shuffled))
    assert list(again) == ALL
    for name, values in again.items():
        np.testing.assert_allclose(
            values, scores[0][name][shuffled], rtol=1e-5, atol=1e-9, err_msg=name
        )


def test_an_image_twice_has_one_score(ood_digits):
    """Ties stay ties, so that an image in both sets counts half."""
    train, inside, _ = ood_digits
    scores = score_all(train, inside.rows(np.repeat(np.arange(20), 2)))
    for name, values in scores.items():
        np.testing.assert_allclose(values[::2], values[1::2], rtol=1e-6, err_msg=name)


def test_a_combined_score_is_the_largest_z_score_by_held_out_training_images(ood_digits, scores):
    """A fifth of the 900 training images is scored by the detector that is fitted to the others."""
    train, inside, _ = ood_digits
    fifth = np.isin(np.arange(900), sample_rows(900, 180, 0, "held out of combined"))
    rest, held = train.rows(~fifth), train.rows(fifth)
    parts = []
    for name in ("knn", "mahalanobis"):
        known, asked = (np.log(score_all(*pair)[name]) for pair in ((rest, held), (train, inside)))
        parts.append((asked - known.mean()) / known.std())
    np.testing.assert_allclose(scores[0]["combined"], np.max(parts, axis=0))
    parts.append((inside.log_sigma - held.log_sigma.mean()) / held.log_sigma.std())
    np.testing.assert_allclose(scores[0]["combined_sigma"], np.max(parts, axis=0), atol=1e-5)


@pytest.mark.parametrize("order", ["in turn", "sorted"])
def test_a_combined_score_does_not_ask_in_which_order_the_classes_come(order):
    """8000 images of ten classes, sigma larger for some; OOD lies wider around the same means."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(10, 24)) * 2

    def sample(labels, spread):
        features = centres[labels] + spread * rng.normal(size=(len(labels), 24))
        return Sample(
            features, 0.4 * (labels % 5) + rng.normal(size=len(labels)) / 4, labels=labels
        )

    train, inside = sample(np.arange(8000) % 10, 1.0), sample(rng.integers(0, 10, 1000), 1.0)
    outside = sample(rng.integers(0, 10, 1000), 1.3)
    rows = np.argsort(train.labels, kind="stable") if order == "sorted" else np.arange(8000)
    aurocs = []
    for permutation in (rows, rng.permutation(8000)):
        scores = [score_all(train.rows(permutation), query) for query in (inside, outside)]
        aurocs.append([detection.auroc(*(every[name] for every in scores)) for name in COMBINED])
    assert np.abs(np.subtract(*aurocs)).max() < 0.01


def test_a_combined_score_survives_an_image_of_the_training_set_and_a_constant_sigma(ood_digits):
    train, _, _ = ood_digits
    flat = Sample(train.features, np.zeros(900), train.logits, train.labels, train.head)
    scores = score_all(flat, flat, Settings(k=1))
    assert all(np.isfinite(scores[name]).all() for name in COMBINED)
    assert (scores["combined_sigma"] >= 0).all()


def test_a_k_that_the_training_images_allow_is_allowed_without_the_held_out_ones(ood_digits):
    train, inside, _ = ood_digits
    assert "combined" in score_all(train, inside, Settings(k=900))


@pytest.mark.parametrize(
    ("lacking", "left"),
    [
        (
            {"labels", "logits", "head"},
            [
                name
                for name, entry in ood_scores.DETECTORS.items()
                if entry.score and entry.label_free
            ],
        ),
        ({"log_sigma"}, [name for name in ALL if "sigma" not in name]),
        ({"head"}, [name for name in ALL if name != "vim"]),
    ],
)
def test_what_the_samples_lack_leaves_the_detectors_that_need_it_out(ood_digits, lacking, left):
    bare = [replace(sample, **dict.fromkeys(lacking)) for sample in ood_digits[:2]]
    assert list(score_all(*bare)) == left


def test_a_detector_is_label_free_where_none_of_its_parts_reads_labels():
    free = {name for name, entry in ood_scores.DETECTORS.items() if entry.label_free}
    assert free >= {"knn", "gaussian", "ssd", "feature_norm", "sigma", "view_score", "mixture"}
    assert not free & {"msp", "vim", "mahalanobis", "combined", "combined_sigma"}


def test_an_entry_is_computed_or_made_of_parts_or_comes_from_the_networks():
    views = prediction.view_scores(
        prediction.Measured(*[np.ones(2)] * len(fields(prediction.Measured)))
    )
    for name, entry in ood_scores.DETECTORS.items():
        assert entry.from_networks == (name in views)
        assert bool(entry.score) + bool(entry.parts) + entry.from_networks == 1
        assert set(entry.parts) <= set(COMPUTED)
        assert set(entry.fitted) <= set(ood_statistics.STATISTICS)


def test_detectors_fitted_to_a_table_of_several_arrays_score_to_the_bit(ood_digits, scores):
    train, inside, _ = ood_digits
    stack = Stack((train.features[:700], train.features[700:]))
    for name, values in score_all(replace(train, features=stack), inside).items():
        np.testing.assert_array_equal(values, scores[0][name], err_msg=name)


def test_detectors_come_back_from_their_file_to_the_bit(ood_digits, scores, tmp_path):
    train, inside, _ = ood_digits
    files.write_arrays(tmp_path / "fitted", Fitted.fit(train, DEFAULTS).arrays())
    arrays = files.read_arrays(tmp_path / "fitted")
    known = {name for name in arrays if not name.startswith("standards.")}
    assert known == {
        f"{name}.{array}"
        for name, entry in ood_statistics.STATISTICS.items()
        for array in entry.shapes
    }
    again = Fitted.of(arrays, train.features, DEFAULTS).score(inside)
    assert list(again) == ALL
    for name, values in again.items():
        np.testing.assert_array_equal(values, scores[0][name], err_msg=name)


@pytest.mark.parametrize(
    ("name", "array", "why"),
    [
        ("classes.whiten", np.eye(3), "whiten' is float64 .3, 3. where float64 .F, F. is needed"),
        ("gaussian.means", None, "it has no 'gaussian.means'"),
        ("standards.knn", np.zeros(3), "'standards.knn' is float64 .3. where"),
    ],
)
def test_a_damaged_file_is_named(ood_digits, tmp_path, name, array, why):
    arrays = Fitted.fit(ood_digits[0], DEFAULTS).arrays()
    del arrays[name]
    files.write_arrays(tmp_path / "fitted", arrays if array is None else arrays | {name: array})
    with pytest.raises(UserError, match=f"fitted cannot be read .*{why}"):
        Fitted.of(files.read_arrays(tmp_path / "fitted"), ood_digits[0].features, DEFAULTS)


def test_no_images_are_a_sentence(ood_digits):
    train, inside, _ = ood_digits
    with pytest.raises(UserError, match="no images for the OOD detectors"):
        Fitted.fit(train, DEFAULTS, ["knn"]).score(inside.rows(np.arange(0)))


def test_every_detector_is_documented():
    """docs/evaluation.md names every detector of the registry, and no other one, in its table."""
    text = (Path(__file__).parents[3] / "docs/evaluation.md").read_text()
    table = text.partition("## OOD detectors")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall("`(.*?)`", row)} == {*ood_scores.DETECTORS}


def test_the_number_of_threads_changes_no_digit():
    """Of 300 features, with which LAPACK would share its work among threads."""
    rng = np.random.default_rng(0)
    labels, mixing = rng.integers(0, 40, 2000), rng.normal(size=(300, 300))
    features = (rng.normal(size=(2000, 300)) @ mixing + labels[:, None]).astype(np.float32)
    head = rng.normal(size=(40, 300)), rng.normal(size=40)
    train = Sample(features, features[:, 0], features @ head[0].T, labels, head)
    results = []
    for count in (1, 3):
        with threadpool_limits(count, "blas"):
            fitted = Fitted.fit(train, DEFAULTS)
            results.append(fitted.arrays() | fitted.score(train.rows(np.arange(500))))
    for name, values in results[0].items():
        np.testing.assert_array_equal(values, results[1][name], err_msg=name)
