"""What the leaves read, and what they say when it is not there."""

import numpy as np
import pytest

from prosmin.errors import UserError
from stages.features import load_features, load_labelled


def test_a_split_is_read_as_it_was_written(workplace):
    features = load_features("digits", "random")
    assert features.splits == ("train", "val", "test")
    arrays = workplace.features["digits", "random"]
    for found, what in zip(features.split("val"), ("features", "labels", "log_sigma"), strict=True):
        np.testing.assert_array_equal(found, arrays[f"val.{what}"])


def test_features_that_embed_has_not_made_name_the_stage(workplace):
    with pytest.raises(UserError, match=r"other/trained.safetensors does not exist; .* `python -m stages.embed other`"):
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
    found = sorted(map(tuple, np.concatenate([train[0], val[0]])))
    assert found == sorted(map(tuple, workplace.features["digits", "trained"]["train.features"]))
    np.testing.assert_array_equal(val[1], load_labelled("digits", "random", 0)[1][1])
