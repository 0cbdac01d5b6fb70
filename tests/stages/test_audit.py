"""The audit stage on real digits with planted faults: its tables, pictures and numbers."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from sklearn.metrics import average_precision_score, roc_auc_score

from prosmin.common import files
from prosmin.common.errors import ConfigError, UserError
from prosmin.data import dataset
from prosmin.evaluation.audit import NEAR
from stages import audit, embed, fetch
from stages.params.fetch import Folder
from stages.params.load import load
from tests.stages.conftest import ROOT
from tests.stages.test_prediction import at_work

WRITTEN = (
    *("outliers.csv", "near_duplicates.csv", "labels.csv", "images.parquet"),
    "examples.safetensors",
)
FOREIGN, FLIPPED, EXACT, CHANGED = 4, 12, 3, 5


def plant(folder):
    """Digits as files, 30 of a class and split, with faults; returns what was planted by name."""
    rng, planted = np.random.default_rng(0), {"foreign": set(), "flipped": {}, "copies": {}}
    images, labels = load_digits().images, load_digits().target
    photograph = load_sample_image("flower.jpg").mean(axis=2)

    def save(split, label, name, pixels):
        path = folder / split / str(label) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
        return f"{split}/{label}/{name}.png"

    by_class = [np.flatnonzero(labels == label) for label in range(10)]
    for label, rows in enumerate(by_class):
        for place, row in enumerate(rows[:60]):
            split = ("train", "test")[place % 2]
            save(split, label, row, images[row] * 15)
    for place in range(FLIPPED):
        label, row = place % 10, by_class[place % 10][60 + place // 10]
        given = (label + rng.integers(1, 10)) % 10
        planted["flipped"][save("train", given, row, images[row] * 15)] = str(label)
    while len(planted["foreign"]) < FOREIGN:
        top, left = rng.integers(0, 400, 2)
        pixels = photograph[top : top + 8, left : left + 8]
        if pixels.std() > 25:  # flat parts look all the same
            planted["foreign"].add(save("test", 0, f"foreign{top}_{left}", pixels))
    for place in range(EXACT + CHANGED):
        row = by_class[place][0]  # the first of train
        noise = rng.normal(0, 3, (8, 8)) if place >= EXACT else 0
        copy = save("test", place, f"copy{place}", images[row] * 15 + noise)
        planted["copies"][copy] = f"train/{place}/{row}.png"
    return planted


def see_pixels(name):
    """Put the pixels in the place of the features of small untrained networks."""
    for encoder in ("trained", "random"):
        path = f"results/embed/{name}/{encoder}.safetensors"
        arrays = dict(files.read_arrays(path))
        for split in dataset.split_names(f"data/{name}"):
            pixels = dataset.load_split(f"data/{name}", split, 8, 1).images.flatten(1).numpy()
            shown = pixels if encoder == "trained" else pixels[:, 18:24]
            arrays[f"{split}.features"] = shown.astype(np.float32) + 1
        files.write_arrays(path, arrays)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return folder, plant(folder)


@pytest.fixture(scope="module")
def params(planted):
    given = load(ROOT / "params.yaml")
    sets = {
        "faulty": Folder(source="folder", path=str(planted[0]), val_fraction=0),
        "inverted": given.fetch["digits_inverted"].model_copy(
            update={"limit": {"train": 60, "val": 20, "test": 20}}
        ),
    }
    asked = {"datasets": tuple(sets), "bootstrap": 100, "listed": 30}
    return given.model_copy(update={"fetch": sets, "audit": given.audit.model_copy(update=asked)})


@pytest.fixture(scope="module")
def made(tmp_path_factory, params):
    folder = tmp_path_factory.mktemp("audit")
    with at_work(folder, params):
        for name in params.fetch:
            fetch.main(params, name)
            embed.main(params, name)
            see_pixels(name)
            audit.main(params, name)
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)


def table(name, dataset="faulty"):
    return files.read_csv(f"results/audit/{dataset}/{name}.csv")


def scores():
    return pq.read_table("results/audit/faulty/images.parquet").to_pylist()


def measured(name):
    return files.read_metrics(f"metrics/audit/{name}.json")


def test_planted_faults_are_ranked_first(planted):
    rows = scores()
    assert len(rows) == 600 + FLIPPED + FOREIGN + EXACT + CHANGED
    names = np.array([row["file"] for row in rows])
    for kind, column in (("foreign", "outlier"), ("flipped", "label_doubt")):
        truth = np.isin(names, list(planted[1][kind]))
        score = np.array([row[column] for row in rows])
        assert truth.sum() == len(planted[1][kind])
        assert average_precision_score(truth, score) > 0.6, kind
        assert roc_auc_score(truth, score) > 0.9, kind
    by_name = dict(zip(names, rows))
    own = planted[1]["flipped"]
    assert np.mean([by_name[name]["suggested"] == label for name, label in own.items()]) > 0.6
    assert np.mean([by_name[name]["likely_wrong"] for name in own]) > 0.4


def test_copies_are_listed_with_both_files_and_splits(planted):
    rows, copies = table("near_duplicates"), planted[1]["copies"]
    pairs = [(row["file"], row["other_file"]) for row in rows]
    wanted = [(original, copy) for copy, original in copies.items()]
    assert set(pairs[:EXACT]) == set(wanted[:EXACT])
    assert set(wanted) <= set(pairs[: EXACT + 2 * CHANGED])
    for row in rows:
        assert (row["identical"] == "1") == ((row["file"], row["other_file"]) in wanted[:EXACT])
        assert 0 <= float(row["ratio"]) <= NEAR
    first = rows[0]
    assert (first["split"], first["other_split"]) == ("train", "test")
    assert first["label"] == first["other_label"] == first["file"].split("/")[1]
    metrics = measured("faulty")
    assert metrics["identical"] == {"train, test": EXACT}
    assert metrics["trained"]["near_duplicates"]["train, test"] >= CHANGED


def test_tables_rank_the_highest_scores_and_name_the_row_of_the_image():
    rows = {row["file"]: row for row in scores()}
    for name, column in (("outliers", "outlier"), ("labels", "label_doubt")):
        listed = table(name)
        assert [int(row["rank"]) for row in listed] == list(range(1, 31))
        best = sorted((row[column] for row in rows.values()), reverse=True)[:30]
        np.testing.assert_allclose([float(row["score"]) for row in listed], best, rtol=1e-5)
        for row in listed:
            same = rows[row["file"]]
            assert (row["split"], int(row["row"])) == (same["split"], same["row"])
            assert row["label"] == same["label"] == row["file"].split("/")[1]


def test_pictures_are_those_of_the_first_rows(planted):
    pictures = files.read_arrays("results/audit/faulty/examples.safetensors")
    assert pictures["outliers"].shape == (30, 1, 8, 8) == pictures["labels"].shape
    assert len(pictures["near_duplicates"]) == 2 * min(32, len(table("near_duplicates")))
    first = pictures["near_duplicates"][:2]
    np.testing.assert_array_equal(first[0], first[1])
    shown = np.asarray(Image.open(planted[0] / table("outliers")[2]["file"]))
    np.testing.assert_array_equal(pictures["outliers"][2, 0], shown)


def test_labels_made_wrong_measure_the_audit_of_both_encoders():
    metrics = measured("faulty")
    for encoder in ("trained", "random"):
        own = metrics[encoder]
        assert 0.7 < own["label_auroc_low"] < own["label_auroc"] < own["label_auroc_high"] <= 1
        assert 0 < own["likely_wrong"] < 0.5
        assert own["n"] == metrics["images"] == 624

    trained, random = metrics["trained"], metrics["random"]
    assert trained["label_ap"] > 0.7 > random["label_ap"] > 0.05


def test_without_labels_the_other_tables_are_written():
    metrics = measured("inverted")
    assert metrics["left_out"] == "the train split of dataset 'inverted' has no labels."
    assert set(metrics["trained"]) == {"outlier_distance", "near_duplicates", "n"}
    present = {path.name for path in audit.layout.results("audit", "inverted").iterdir()}
    assert present == set(WRITTEN) - {"labels.csv"}


def test_a_sample_is_compared_with_all_images(params):
    whole = {row["file"]: row for row in table("outliers")}
    asked = params.audit.model_copy(update={"images": 100})
    before = {path: path.read_bytes() for path in written()}
    audit.main(params.model_copy(update={"audit": asked}), "faulty")
    metrics, rows = measured("faulty"), table("outliers")
    assert (metrics["trained"]["n"], metrics["images"]) == (200, 624)
    same = [row for row in rows if row["file"] in whole]
    assert same and all(row["score"] == whole[row["file"]]["score"] for row in same)
    audit.main(params, "faulty")
    assert {path: path.read_bytes() for path in written()} == before


def written():
    return [
        *audit.layout.results("audit", "faulty").iterdir(),
        audit.layout.metrics("audit", "faulty"),
    ]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("faults", UserError, "needs one of audit.datasets, not 'faults'.*mean 'faulty'"),
        ("faulty", ConfigError, "k is 700.*there are 624 images; allowed: 1 to 623"),
    ],
)
def test_mistakes_are_one_sentence(params, name, error, message):
    asked = params.audit.model_copy(update={"k": 700})
    with pytest.raises(error, match=message):
        audit.main(params.model_copy(update={"audit": asked}), name)
