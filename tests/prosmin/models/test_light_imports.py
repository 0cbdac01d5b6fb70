"""timm and training without torch.compile; what a process loads is the point of each test."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


BUILD = """
import sys, torch
from prosmin.models.backbone import build_backbone
backbone = build_backbone("resnet18", 32, 3).eval()
"""


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


def test_an_encoder_is_built_and_trained_without_torch_compile_and_distributed_tensors():
    loaded = said(
        "import sys, torch\n"
        "from prosmin.evaluation import uncertainty_head\n"
        "from tests.prosmin.training.tiny import train\n"
        "rng = torch.Generator().manual_seed(0)\n"
        "images = torch.randint(0, 256, (128, 1, 8, 8), dtype=torch.uint8, generator=rng)\n"
        "train((images, torch.arange(128) % 10))\n"
        "features = torch.randn(50, 3, generator=rng).numpy()\n"
        "uncertainty_head.fit(features, features[:, 0], 0.0, 1.0, epochs=1, seed=0)\n"
        "print(*sys.modules)"
    ).split()
    heavy = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "sympy")
    assert {"timm", "torchvision", "accelerate"} <= set(loaded)
    assert not [name for name in loaded if name.startswith(heavy)]


def test_whoever_wants_torch_compile_while_a_model_is_trained_gets_it():
    out = said("""
import sys, torch
from prosmin.models import light_imports
with light_imports.without_compile():
    layer = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    assert "torch._inductor" not in sys.modules
    import torch._dynamo.config as config
    assert config.__spec__.origin and sys.modules["torch._dynamo.config"] is config
    compiled = torch.compile(layer, backend="eager")
    assert torch.equal(compiled(torch.ones(1, 2)), layer(torch.ones(1, 2)))
    optimiser.step()
assert isinstance(compiled, torch._dynamo.eval_frame.OptimizedModule)
print(torch._dynamo.__file__)
""")
    assert out.endswith("__init__.py")
