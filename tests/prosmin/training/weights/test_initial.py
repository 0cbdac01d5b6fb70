"""Where training starts: at weights of a file, a run or an export, or one sentence on the fault."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from prosmin.common import files
from prosmin.common.errors import ConfigError, UserError
from prosmin.models import store
from prosmin.predicting import parts
from prosmin.training.weights import external
from prosmin.training.weights.initial import Initial, from_run

SMALL = store.ModelSettings(
    "resnet18", 8, 1, (0.3,), (0.2,), 16, 8, True, {"layers": [1, 1, 1, 1], "channels": [8] * 4}
)


def shaken(settings, seed=7):
    """A model whose weights and statistics are not those of any new model."""
    model = store.build_model(settings, seed)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=draws))
    return model


def as_run(folder, model, settings):
    folder.mkdir()
    store.save_state(folder / store.WEIGHTS["trained"], model.state_dict())
    store.save_description(folder, settings, {"dataset": "digits"})
    return folder


def as_export(folder, model, settings):
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    encoder = {
        name.removeprefix(parts.OF_ENCODER): array
        for name, array in state.items()
        if name.startswith(parts.OF_ENCODER)
    }
    others = (parts.OF_ENCODER, parts.OF_TARGET)
    heads = {name: array for name, array in state.items() if not name.startswith(others)}
    files.write_arrays(folder / parts.ENCODER, encoder)
    files.write_arrays(folder / parts.HEADS, heads)
    checksums = {parts.ENCODER: parts.checksum(encoder), parts.HEADS: parts.checksum(heads)}
    index = {"format": parts.FORMAT, "parts": checksums, "model": asdict(settings)}
    files.write_json(folder / parts.INDEX, index | {"dataset": "digits"})
    return folder


def online(model):
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(parts.OF_TARGET)
    }


def alike(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def follows(model):
    return all(
        alike(copied.state_dict(), original.state_dict())
        for copied, original in zip(model.target, model._online, strict=True)
    )


@pytest.mark.parametrize("write", [as_run, as_export])
@pytest.mark.parametrize("objective", [{"name": "prosmin"}, {"name": "dino", "prototypes": 12}])
def test_an_earlier_run_gives_encoder_heads_and_a_target_that_is_a_copy(tmp_path, write, objective):
    settings = replace(SMALL, objective=objective)
    earlier = shaken(settings)
    assert not follows(earlier)
    initial = from_run(write(tmp_path / "earlier", earlier, settings), "initial")
    model = store.build_model(settings, 0)
    assert initial.place(model, settings)
    assert alike(online(model), online(earlier)) and follows(model)
    assert initial.weights.name == "an earlier run on digits"
    assert external.normalisation(initial.weights, "resnet18", 1) == ((0.3,), (0.2,))


def test_heads_of_another_objective_or_size_are_left_where_they_are(tmp_path):
    earlier = shaken(SMALL)
    initial = from_run(as_run(tmp_path / "earlier", earlier, SMALL), "initial")
    for other in (replace(SMALL, dim=6), replace(SMALL, objective={"name": "simclr"})):
        model, fresh = store.build_model(other, 3), store.build_model(other, 3)
        assert not initial.place(model, other)
        assert alike(model.encoder.state_dict(), earlier.encoder.state_dict())
        assert alike(model.projector.state_dict(), fresh.projector.state_dict())


def test_a_file_gives_the_encoder_alone(tmp_path):
    earlier, model, fresh = shaken(SMALL), store.build_model(SMALL, 3), store.build_model(SMALL, 3)
    save_file(earlier.encoder.backbone.state_dict(), tmp_path / "theirs.safetensors")
    initial = Initial(external.from_file(tmp_path / "theirs.safetensors", "initial"))
    assert not initial.place(model, SMALL) and follows(model)
    assert alike(model.encoder.state_dict(), earlier.encoder.state_dict())
    assert alike(model.head.state_dict(), fresh.head.state_dict())


def test_what_cannot_be_gone_on_from_is_one_sentence(tmp_path):
    run = as_run(tmp_path / "earlier", shaken(SMALL), SMALL)
    initial = from_run(run, "initial")
    other = replace(SMALL, encoder="resnet34")
    with pytest.raises(ConfigError, match="^encoder.name is 'resnet34'; the weights of an earlier"):
        initial.place(store.build_model(other), other)
    wider = replace(SMALL, kwargs={**SMALL.kwargs, "channels": [8, 8, 8, 16]})
    with pytest.raises(UserError, match="^the weights of an earlier run on digits do not fit"):
        initial.place(store.build_model(wider), wider)
    with pytest.raises(ConfigError, match="^channels is 3; the input of an earlier run"):
        external.normalisation(initial.weights, "resnet18", 3)
    with pytest.raises(ConfigError, match="^initial.sha256 is '0{64}'; the file .* has [0-9a-f]+$"):
        from_run(run, "initial", "0" * 64)
    whole = external.from_file(run, "initial")
    with pytest.raises(UserError, match="holds an encoder with its heads, .*encoder.safetensors"):
        external.load_backbone(whole, SMALL)
    with pytest.raises(ConfigError, match=r"^initial.path is .*neither model.json nor prosmin.js"):
        from_run(tmp_path, "initial")
    (run / "model.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(UserError, match=r"model.json is of format 0; this version reads format 1"):
        from_run(run, "initial")
    (run / "model.json").unlink()
    with pytest.raises(UserError, match="is of an older version: it has an encoder, but no prosm"):
        from_run(run, "initial")
    with pytest.raises(ConfigError, match="^initial.path is .*pickled weights are not read$"):
        external.from_file(tmp_path / "theirs.pth", "initial")


def test_an_export_with_a_part_of_another_export_is_refused(tmp_path):
    export = as_export(tmp_path / "export", shaken(SMALL), SMALL)
    heads = files.read_arrays(export / parts.HEADS)
    files.write_arrays(export / parts.HEADS, {name: array + 1 for name, array in heads.items()})
    with pytest.raises(UserError, match="heads.safetensors belongs to another export"):
        from_run(export, "initial")
