"""timm without torch.compile, each in a process of its own: what is loaded is the point."""

import subprocess
import sys

import pytest


def said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


BUILD = """
import sys, torch
from prosmin.models.backbone import build_backbone
backbone = build_backbone("resnet18", 32, 3).eval()
"""


def test_an_encoder_is_built_and_runs_without_torch_compile():
    loaded = said(BUILD + "backbone(torch.zeros(2, 3, 32, 32)); print(*sys.modules)").split()
    assert "timm" in loaded and "torchvision" in loaded
    assert not [name for name in loaded if name.startswith("torch._dynamo")]


def test_jpegs_are_decoded_without_torch_compile():
    code = (
        "import sys; from prosmin.models.light_imports import torchvision_io; "
        "assert torchvision_io().decode_jpeg; print(*sys.modules)"
    )
    assert not [name for name in said(code).split() if name.startswith("torch._dynamo")]


def test_what_was_left_out_is_there_when_it_is_wanted():
    out = said(
        BUILD
        + """
import torch._dynamo, torchvision
light_imports = sys.modules["prosmin.models.light_imports"]
assert torch._dynamo.utils.__file__ and torch._dynamo.disable is not light_imports._disable
compiled = torch.compile(backbone, backend="eager")
images = torch.rand(2, 3, 32, 32)
assert torch.equal(compiled(images), backbone(images))
from torch._dynamo.utils import is_compile_supported
roi_align = sys.modules["torchvision.ops.roi_align"]
assert roi_align.is_compile_supported("cpu") == is_compile_supported("cpu")
print(*torchvision.ops.roi_align(images, torch.tensor([[0.0, 0, 0, 4, 4]]), 2).shape)
"""
    )
    assert out == "1 3 2 2"


@pytest.mark.parametrize("attribute", ["config", "utils.counters"])
def test_a_version_that_wants_something_else_gets_the_real_one(tmp_path, attribute):
    """A package of that name, earlier on the path, which asks for what the stand-in has not."""
    module, name = f"torch._dynamo.{attribute}".rsplit(".", 1)
    (tmp_path / "timm.py").write_text(f"from {module} import {name} as attribute")
    out = said(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from prosmin.models import light_imports\n"
        "attribute = light_imports.timm().attribute\n"
        f"import torch._dynamo.utils\nassert attribute is {module}.{name}\nprint('real')"
    )
    assert out == "real"
