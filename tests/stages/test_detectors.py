"""The detectors stage on real features: what it fits, and what it refuses."""

import shutil

import numpy as np
import pytest

from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.evaluation import ood_scores
from prosmin.evaluation.ood_detectors import Sample
from stages import detectors, linear
from stages.common.features import load_features
from stages.params.load import load
from tests.stages.conftest import ROOT, Workplace

COMPUTED = [name for name, entry in ood_scores.DETECTORS.items() if not entry.from_networks]
TRAINED = "results/detectors/trained.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Digits with a probe and fitted detectors."""
    place = Workplace(tmp_path_factory.mktemp("detectors"))
    place.write()
    shutil.copy(ROOT / "params.yaml", place.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.folder)
        linear.main(load())
        detectors.main(load())
    return place


def loaded(params, encoder="trained"):
    features, probe = load_features("digits", encoder), linear.load_probe(encoder)
    return detectors.load_detectors(params, encoder, features, probe)


def asked(params, **changes):
    return params.model_copy(update={"ood": params.ood.model_copy(update=changes)})


def test_it_writes_what_detectors_fitted_to_train_and_val_have(ready, params):
    for encoder in ("trained", "random"):
        arrays = ready.features["digits", encoder]
        train = Sample(
            *(
                np.concatenate([arrays[f"{split}.{field}"] for split in ("train", "val")])
                for field in ("features", "log_sigma")
            ),
            labels=np.concatenate([arrays["train.labels"], arrays["val.labels"]]),
            head=linear.load_probe(encoder).linear,
        )
        fitted = ood_scores.Fitted.fit(train, detectors.settings(params))
        written = files.read_arrays(f"results/detectors/{encoder}.safetensors")
        for name, values in fitted.arrays().items():
            np.testing.assert_array_equal(written[name], values, err_msg=name)
        test = arrays["test.features"]
        logits = linear.load_probe(encoder).logits(test)
        scores = fitted.score(Sample(test, arrays["test.log_sigma"], logits))
        assert sorted(scores) == sorted(COMPUTED)
        for name, values in scores.items():
            np.testing.assert_array_equal(written[f"id.{name}"], values, err_msg=name)


def test_detectors_from_the_file_give_its_scores_again(ready, params):
    fitted, arrays = loaded(params)
    query = detectors.to_score(load_features("digits", "trained"), linear.load_probe("trained"))
    for name, values in fitted.score(query).items():
        np.testing.assert_array_equal(arrays[f"id.{name}"], values, err_msg=name)
    probe = files.read_json("metrics/linear.json")["trained"]
    assert files.rounded(float(arrays["accuracy"][0])) == probe["accuracy"]


def test_a_second_run_and_the_command_write_the_same_bytes(ready, params):
    before = ready.written()
    done = ready.python("-m", "stages.detectors")
    assert done.returncode == 0 and "detectors: digits, trained encoder: msp, " in done.stderr
    assert ready.written() == before


CHANGES = {
    "a feature": "test.features",
    "an image": "train.digest",
    "a label": "val.labels",
}


@pytest.mark.parametrize("name", CHANGES.values(), ids=CHANGES)
def test_detectors_of_other_features_are_refused(ready, params, name):
    ready.features["digits", "trained"][name][3] += 1
    ready.write()
    with pytest.raises(UserError, match=f"^{TRAINED} was fitted to other features of 'digits', an"):
        loaded(params)
    loaded(params, "random")


def test_detectors_of_another_probe_or_other_settings_are_refused(ready, params):
    for changed in (asked(params, k=3), asked(params, shrinkage=0.2), asked(params, vim_dim=5)):
        with pytest.raises(UserError, match="other settings of ood in params.yaml; make it anew"):
            loaded(changed)
    shutil.copy("results/linear/trained_train.safetensors", "results/linear/trained.safetensors")
    with pytest.raises(UserError, match="another linear probe .*python -m stages.detectors"):
        loaded(params)


def test_a_missing_or_damaged_file_is_one_sentence(ready, params):
    arrays = dict(files.read_arrays(TRAINED))
    files.write_arrays(TRAINED, arrays | {"accuracy": np.zeros(2)})
    with pytest.raises(UserError, match="'accuracy' is float64 .2. where"):
        loaded(params)
    shutil.rmtree("results/detectors")
    with pytest.raises(UserError, match=f"^{TRAINED} does not exist; .*python -m stages.detectors"):
        loaded(params)


def test_without_labels_the_label_free_detectors_are_fitted(ready, params):
    ready.unlabel()
    detectors.main(params)
    _, arrays = loaded(params)
    free = {name for name in COMPUTED if ood_scores.DETECTORS[name].label_free}
    assert {name.partition(".")[2] for name in arrays if name.startswith("id.")} == free
    assert "accuracy" not in arrays and not any(name.startswith("classes") for name in arrays)


def test_a_setting_that_the_features_do_not_allow_is_a_fault_of_params(ready):
    text = (ready.folder / "params.yaml").read_text()
    for key, value, why in (
        ("k", 651, "there are 650 training images"),
        ("vim_dim", 64, "there are 64 features"),
    ):
        old = f"\n  {key}: {'null' if key == 'vim_dim' else 10} "
        assert text.count(old) >= 1
        changed = text.replace(old, f"\n  {key}: {value} ")
        (ready.folder / "params.yaml").write_text(changed)
        done = ready.python("-m", "stages.detectors")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(
            f"error: params.yaml: ood.{key} is {value}; {why}"
        )


def test_a_dataset_without_train_and_test_images_is_refused(ready, params):
    ready.drop("test")
    ready.write()
    with pytest.raises(UserError, match="dataset 'digits' has no test split; it has train, val"):
        detectors.main(params)
    for split in ("train", "val"):
        ready.drop(split)
    for arrays in ready.features.values():
        arrays["test.features"] = np.zeros((2, 3), np.float32)
        arrays["test.labels"] = np.zeros(2, np.int64)
        arrays["test.digest"] = np.zeros(2, np.uint64)
    ready.write()
    with pytest.raises(UserError, match="'digits' has no train split for the detectors"):
        detectors.main(params)


def test_it_needs_neither_torch_nor_the_orchestration(workplace):
    heavy = ("torch", "timm", "sklearn", "scipy", "dvc", "prefect", "datasets")
    done = workplace.python(
        "-c", f"import sys, stages.detectors; print([m for m in {heavy} if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr
