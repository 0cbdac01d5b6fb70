"""A kept step is replayed to the bit, and says where a number is first not finite."""

import json
import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from prosmin.common import files
from prosmin.common.errors import UserError
from prosmin.models import store
from prosmin.training import loop, replay
from prosmin.training.checkpoint import Checkpoints
from prosmin.training.settings import TrainSettings
from prosmin.views.settings import Views

MODEL = store.ModelSettings(
    "resnet18", 8, 1, (0.5,), (0.3,), 16, 8, True, {"layers": [1, 1, 1, 1], "channels": [8] * 4}
)
SETTINGS = TrainSettings(
    image_size=8, epochs=2, batch_size=32, lr=2e-3, views=Views(), warmup_epochs=1, clip_norm=None
)
KEPT = 5


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A step of a real run in a file, with its loss and the norm of its gradient."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run"), "c" * 16, about=MODEL)
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (128, 1, 8, 8), dtype=torch.uint8, generator=draws)
    step, seen = loop.Run.step, []

    def noted(self, views, epoch, place):
        if self.steps_done == KEPT:
            self.keep_step(views, epoch, place)
        step(self, views, epoch, place)
        if self.steps_done == KEPT + 1:
            seen.extend([float(self.losses[-1]), float(self.norms[-1])])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop.Run, "step", noted)
        model = store.build_model(MODEL, 3)
        loop.pretrain(model, images, SETTINGS, 3, Accelerator(cpu=True), checkpoints=checkpoints)
    return checkpoints.step_path(KEPT, 0), seen


def test_loss_and_norm_are_those_of_the_run_to_the_bit(kept):
    path, seen = kept
    again = replay.replay(replay.read(path))
    assert [again.loss, again.norm] == seen and math.isfinite(again.loss)
    assert not again.module and not again.weights and not again.gradients
    assert len(again.largest) == replay.SHOWN


def test_the_first_module_and_the_gradients_that_are_not_finite_are_named(kept):
    step = replay.read(kept[0])
    name = "model.encoder.backbone.layer2.0.conv1.weight"
    arrays = dict(step.arrays) | {name: step.arrays[name] * math.inf}
    again = replay.replay(replace(step, arrays=arrays))
    assert math.isnan(again.loss) and again.module.startswith("encoder.backbone.layer2.0.conv1 (Co")
    assert again.weights == [name.removeprefix("model.")] and again.gradients
    lines = list(replay.told(step, again))
    assert "first module with an output that is not finite: encoder.backbone.layer2" in lines[3]
    assert lines[0] == "step 6: epoch 2, step 2 of it, seed 3"


def test_the_views_of_all_processes_are_one_batch(kept, tmp_path):
    step = replay.read(kept[0])
    head = {"run": "x", "facts": json.dumps(step.facts | {"processes": 2})}
    paths = [tmp_path / f"kept-000000005.rank{rank}.safetensors" for rank in range(2)]
    for rank, path in enumerate(paths):
        views = {
            f"views.{place}": view[16 * rank :][:16].numpy()
            for place, view in enumerate(step.views)
        }
        files.write_arrays(path, (dict(step.arrays) if not rank else {}) | views, head)
    both = replay.read(paths[1])
    assert all(torch.equal(a, b) for a, b in zip(both.views, step.views, strict=True))
    paths[1].unlink()
    with pytest.raises(UserError, match="rank1.safetensors cannot be read .No such file"):
        replay.read(paths[0])


def test_the_command_prints_the_step_or_one_sentence(kept, tmp_path, capsys):
    threads = torch.get_num_threads()
    assert replay.main([str(kept[0])]) == 0
    torch.set_num_threads(threads)
    assert f"loss {kept[1][0]!r}, norm of the gradient {kept[1][1]!r}" in capsys.readouterr().out
    torn = tmp_path / kept[0].name
    torn.write_bytes(kept[0].read_bytes()[:-1])
    for path, words in ((torn, "it is not a whole checkpoint"), (tmp_path / "x", "no kept step")):
        assert replay.main([str(path)]) == 2
        assert words in capsys.readouterr().err
