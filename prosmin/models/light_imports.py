"""timm and torchvision without torch.compile, which they load in full only to mention it.

``import timm`` takes 2.4 s, of which 1.7 s go to ``torch._dynamo``: torchvision's RoI align imports it for a question
that it asks when it runs on a GPU, and timm for one decorator. Each stage is a process of its own and would pay that
anew, so while they are loaded a stand-in answers both; whatever else another version wants it gets from the real module.
"""

import importlib
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

NAMES = ("torch._dynamo", "torch._dynamo.utils")


def timm() -> ModuleType:
    """The module timm."""
    return _light("timm")


def torchvision_io() -> ModuleType:
    """The module torchvision.io."""
    return _light("torchvision.io")


def _light(wanted: str) -> ModuleType:
    if wanted in sys.modules or not sys.modules.keys().isdisjoint({*NAMES, "torchvision"}):
        return importlib.import_module(wanted)
    stand_ins = {name: ModuleType(name) for name in NAMES}

    def withdraw() -> None:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]

    def real(name: str, attribute: str) -> Any:
        if attribute.startswith("__"):  # of one who looks through all modules, not at this one
            raise AttributeError(attribute)
        withdraw()
        return getattr(importlib.import_module(name), attribute)

    for name, module in stand_ins.items():
        module.__getattr__ = partial(real, name)
    stand_ins["torch._dynamo"].disable = _disable
    stand_ins["torch._dynamo.utils"].is_compile_supported = _is_compile_supported
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module(wanted)
    finally:
        withdraw()


def _disable(
    fn: Callable | None = None, recursive: bool = True, *, reason: str | None = None
) -> Callable:
    """The decorator that keeps a function out of a compiled graph, where none is compiled: timm's NaFlexViT uses it."""
    return fn if fn is not None else _disable


def _is_compile_supported(device_type: str) -> bool:
    return importlib.import_module("torch._dynamo.utils").is_compile_supported(device_type)
