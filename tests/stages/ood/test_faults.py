"""How the ood stage fails."""

import numpy as np
import pytest

from prosmin.common import files
from prosmin.common.errors import UserError
from stages import ood
from tests.stages.ood.conftest import outputs, predicted


@pytest.mark.parametrize(
    ("name", "nearest"), [("", ""), ("digits_rotatd", "digits_rotated"), ("patchs", "patches")]
)
def test_a_missing_or_unknown_set_is_refused(params, name, nearest):
    with pytest.raises(
        UserError, match=f"^ood needs one of ood.sets, not '{name}'; params.yaml has .*, p"
    ) as error:
        ood.main(params, name)
    assert f"did you mean '{nearest}'?" in str(error.value) or not nearest


def test_missing_inputs_name_the_stage_that_makes_them(ready, params):
    (ready.folder / "results/linear/trained.safetensors").unlink()
    with pytest.raises(UserError, match="python -m stages.linear"):
        ood.main(params, "patches")


@pytest.mark.parametrize("name", ["digits", "patches"])
def test_missing_predictions_name_the_stage_that_makes_them(ready, params, name):
    (ready.folder / f"results/prediction/{name}/scores.safetensors").unlink()
    with pytest.raises(UserError, match=f"python -m stages.prediction {name}"):
        ood.main(params, "patches")


@pytest.mark.parametrize("name", ["digits", "patches"])
def test_a_score_that_a_file_of_predictions_lacks_is_named(ready, params, name):
    path = f"results/prediction/{name}/scores.safetensors"
    arrays = dict(files.read_arrays(path))
    del arrays["random.view_score"]
    files.write_arrays(path, arrays)
    with pytest.raises(UserError, match=f"^{path} cannot be read .it has no 'random.view_score'"):
        ood.main(params, "patches")


@pytest.mark.parametrize("name", ["digits", "patches"])
def test_predictions_of_other_images_are_named(ready, params, name):
    predicted(name, np.zeros(249))
    with pytest.raises(UserError, match=f"scores of 249 images, and '{name}' has 250 test images;"):
        ood.main(params, "patches")


def test_a_missing_image_file_names_the_stage_that_makes_it_and_leaves_nothing_behind(
    ready, params
):
    (ready.folder / "data/patches/test.arrow").unlink()
    with pytest.raises(UserError, match="python -m stages.fetch patches"):
        ood.main(params, "patches")
    assert outputs(ready) == {}


def test_a_diverged_encoder_is_named(ready, params):
    ready.features["patches", "random"]["test.log_sigma"][7] = np.nan
    ready.write()
    with pytest.raises(
        UserError, match="'patches', random encoder, detector sigma: 1 of 250 OOD scores are NaN"
    ):
        ood.main(params, "patches")


def test_it_needs_neither_torch_nor_the_orchestration(workplace):
    heavy = ("torch", "timm", "sklearn", "scipy", "dvc", "prefect", "datasets")
    done = workplace.python(
        "-c", f"import sys, stages.ood; print([m for m in {heavy} if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr
