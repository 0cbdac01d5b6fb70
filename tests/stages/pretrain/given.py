"""Params of an encoder whose weights come from a file."""

import timm
import torch
import yaml
from safetensors.torch import save_file

from tests.stages.conftest import ROOT


def outside(folder, **settings) -> dict:
    """Params of an evaluation of a ResNet that lies in ``folder``, made by timm alone."""
    kwargs = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    torch.manual_seed(5)
    model = timm.create_model("resnet18", in_chans=1, **kwargs)
    save_file(model.state_dict(), folder / "theirs.safetensors")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["pretrain"] |= {
        "image_size": 16,
        "encoder": {"name": "resnet18", "kwargs": kwargs},
        "external": {
            "source": "file",
            "path": str(folder / "theirs.safetensors"),
            "mean": [0.3],
            "std": [0.2],
        }
        | settings,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return model


def continued(folder, **initial) -> None:
    """Params of one epoch of training from given weights."""
    content = yaml.safe_load((folder / "params.yaml").read_text())
    given = content["pretrain"].pop("external", None)
    content["pretrain"] |= {"initial": initial or given, "epochs": 1, "warmup_epochs": 0}
    content["fetch"]["digits"]["limit"] = {"train": 256, "val": 64, "test": 64}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
