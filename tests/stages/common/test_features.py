"""What the leaves read, and what they say when it is not there."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from prosmin.common.errors import UserError
from stages.common.features import load_features, load_labelled


def test_a_split_is_read_as_it_was_written(workplace):
    features = load_features("digits", "random")
    assert features.splits == ("train", "val", "test")
    arrays = workplace.features["digits", "random"]
    for values, what in zip(
        features.split("val"), ("features", "labels", "log_sigma"), strict=True
    ):
        np.testing.assert_array_equal(values, arrays[f"val.{what}"])


def test_the_doubts_of_a_split_are_read_by_their_names(workplace):
    arrays = workplace.features["digits", "trained"]
    arrays["val.doubt.width"] = np.arange(150, dtype=np.float32)
    arrays["test.doubt.width"] = np.arange(250, dtype=np.float32)
    workplace.write()
    features = load_features("digits", "trained")
    assert features.doubts("train") == {} and features.splits == ("train", "val", "test")
    assert features.doubts("val").keys() == {"width"}
    np.testing.assert_array_equal(features.doubts("test")["width"], np.arange(250))
    with pytest.raises(UserError, match="'digits' has no other split"):
        features.doubts("other")


def test_features_that_embed_has_not_made_name_the_stage(workplace):
    with pytest.raises(
        UserError,
        match=r"other/trained.safetensors does not exist; .* `python -m stages.embed other`",
    ):
        load_features("other", "trained")


def test_a_missing_split_names_those_there_are(workplace):
    workplace.drop("test")
    workplace.write()
    with pytest.raises(UserError, match="dataset 'digits' has no test split; it has train, val"):
        load_labelled("digits", "trained", 0)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_labels_names_split_and_dataset(workplace, split):
    workplace.features["patches", "trained"][f"{split}.labels"][:3] = -1
    workplace.write()
    message = rf"3 of \d+ images in the {split} split of dataset 'patches' have no label"
    with pytest.raises(UserError, match=message):
        load_labelled("patches", "trained", 0)
    load_features("patches", "trained").split(split)  # an OOD set needs none


def test_without_a_val_split_a_fifth_of_train_is_held_out_alike_for_both_encoders(workplace):
    workplace.drop("val")
    workplace.write()
    train, val, _ = load_labelled("digits", "trained", 0)
    assert len(train[1]) + len(val[1]) == 500 and len(val[1]) == pytest.approx(100, abs=5)
    rows = sorted(map(tuple, np.concatenate([train[0], val[0]])))
    assert rows == sorted(map(tuple, workplace.features["digits", "trained"]["train.features"]))
    np.testing.assert_array_equal(val[1], load_labelled("digits", "random", 0)[1][1])


DAMAGE = {
    "cut short": (lambda arrays: None, "SafetensorError"),
    "no labels": (lambda arrays: arrays.pop("val.labels"), "it has no 'val.labels'"),
    "other labels": (
        lambda arrays: arrays.update({"val.labels": np.zeros(3, np.int64)}),
        "'val.labels' is int64 [3] where",
    ),
    "labels with a point": (
        lambda arrays: arrays.update({"val.labels": np.zeros(150)}),
        "'val.labels' is float64 [150]",
    ),
    "doubts of other images": (
        lambda arrays: arrays.update({"test.doubt.width": np.zeros(3, np.float32)}),
        "'test.doubt.width' is float32 [3] where",
    ),
    "narrow": (
        lambda arrays: arrays.update({"test.features": arrays["test.features"][:, :3]}),
        "is float32 [250, 3] where",
    ),
    "flat": (
        lambda arrays: arrays.update({"test.features": arrays["test.features"][0]}),
        "is float32 [64] where float32 [",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_one_sentence_of_a_real_stage_that_keeps_what_there_is(workplace, case):
    harm, why = DAMAGE[case]
    harm(workplace.features["digits", "trained"])
    workplace.write()
    path = Path("results/embed/digits/trained.safetensors")
    if case == "cut short":
        path.write_bytes(path.read_bytes()[:-7])
        shutil.rmtree("results/linear", ignore_errors=True)
        done = workplace.python("-m", "stages.linear")
        assert (
            done.returncode == 2
            and "Traceback" not in done.stderr
            and len(done.stderr.splitlines()) == 1
        )
        assert (
            workplace.written() == {}
            and why in done.stderr
            and done.stderr.endswith("remove it and make it again: `dvc repro`\n")
        )
        return
    with pytest.raises(UserError) as error:
        load_labelled("digits", "trained", 0)
    assert why in str(error.value) and str(error.value).startswith(f"{path} cannot be read (")


def test_a_label_past_memory_is_one_sentence(workplace):
    from prosmin.evaluation.label_subsets import count_classes

    with pytest.raises(UserError, match="class 3 has no image in the train split"):
        count_classes({"train": np.array([0, 1, 2, 2**62])})
