import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file

from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.models import store
from tests.prosmin.models.small import SMALL

PLAIN = replace(SMALL, cifar_stem=False)  # as timm itself builds it


@pytest.fixture
def folder(tmp_path):
    model = store.build_model(PLAIN, seed=1)
    store.save_state(tmp_path / "model.safetensors", model.state_dict())
    store.save_state(tmp_path / "encoder.safetensors", model.encoder.backbone.state_dict())
    store.save_description(tmp_path, PLAIN, {"dataset": "digits"})
    return tmp_path, model.eval()


def test_a_saved_model_predicts_as_before(folder):
    path, model = folder
    images = torch.rand(5, 1, 8, 8)
    for before, after in zip(
        model.predict(images), store.load_model(path).predict(images), strict=True
    ):
        assert torch.equal(before, after)


def test_encoder_file_loads_into_a_plain_timm_model(folder):
    path, model = folder
    described = json.loads((path / "model.json").read_text())["model"]
    plain = timm.create_model(
        described["encoder"], num_classes=0, in_chans=1, **described["kwargs"]
    ).eval()
    plain.load_state_dict(load_file(path / "encoder.safetensors"))
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(plain((images - 0.3) / 0.4), model.encoder(images))


def test_equal_states_give_equal_bytes(folder, tmp_path):
    path, _ = folder
    store.save_state(tmp_path / "again.safetensors", store.build_model(PLAIN, seed=1).state_dict())
    assert (tmp_path / "again.safetensors").read_bytes() == (
        path / "model.safetensors"
    ).read_bytes()


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = store.build_model(PLAIN, seed=5)
    assert torch.equal(torch.rand(1), expected)
    second, other = store.build_model(PLAIN, seed=5), store.build_model(PLAIN, seed=6)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values())
    )
    assert not torch.equal(first.head.mu.weight, other.head.mu.weight)


def described(path, **changes):
    content = json.loads((path / "model.json").read_text())
    content["model"] |= changes
    (path / "model.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: (path / "model.json").unlink(), "does not exist; pretrain a model first"),
        (lambda path: (path / "model.json").write_text("{"), "does not describe a model"),
        (lambda path: (path / "model.json").write_text('{"format": 99}'), "is of format 99"),
        (lambda path: (path / "model.json").write_text("[1]"), "does not describe a model"),
        (lambda path: (path / "model.json").write_text('{"format": 1}'), "it has no 'trained'"),
        (
            lambda path: described(path, wdith=3),
            "does not describe a model .*unexpected keyword argument 'wdith'",
        ),
        (
            lambda path: described(path, image_size="x"),
            "model.json describes no model .*; remove it and make it again",
        ),
        (
            lambda path: described(path, mean=[]),
            "model.json does not describe a model .*; remove it and make it again",
        ),
        (
            lambda path: described(path, objective={"name": "no"}),
            "model.json describes no model .*; remove it and make it again",
        ),
        (
            lambda path: described(path, hidden_dim=-1),
            "model.json describes no model .*; remove it and make it again",
        ),
        (
            lambda path: (path / "model.safetensors").unlink(),
            "does not exist; pretrain a model first",
        ),
        (
            lambda path: (path / "model.safetensors").write_bytes(b"PK\x03\x04 a pickle"),
            "not a whole safetensors file",
        ),
        (lambda path: files.write_arrays(path / "model.safetensors", {}), "does not fit the model"),
    ],
)
def test_a_broken_folder_is_one_clear_error(folder, harm, message):
    path, _ = folder
    harm(path)
    with pytest.raises(UserError, match=message) as caught:
        store.load_model(path)
    assert "\n" not in str(caught.value)
