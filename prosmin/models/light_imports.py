"""Import timm and torchvision without torch.compile, which they load in full and hardly use.

``import timm`` takes 2.4 s, of which 1.7 s go to ``torch._dynamo``: torchvision's RoI align imports
it for a question that it asks on a GPU, and timm for one decorator. A short program would pay this
time at every start. While timm or torchvision load, stand-ins take the place of the
modules of ``torch._dynamo``; any attribute that another version needs comes from the real module.
"""

import importlib
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

NAMES = ("torch._dynamo", "torch._dynamo.utils")


def timm() -> ModuleType:
    """Import timm."""
    return _import_light("timm")


def torchvision_io() -> ModuleType:
    """Import torchvision.io."""
    return _import_light("torchvision.io")


def _import_light(wanted: str) -> ModuleType:
    if wanted in sys.modules or not sys.modules.keys().isdisjoint({*NAMES, "torchvision"}):
        return importlib.import_module(wanted)
    stand_ins = {name: ModuleType(name) for name in NAMES}

    def withdraw() -> None:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]

    def real(name: str, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked by code that walks through all modules
            raise AttributeError(attribute)
        withdraw()
        return getattr(importlib.import_module(name), attribute)

    for name, module in stand_ins.items():
        vars(module)["__getattr__"] = partial(real, name)
    vars(stand_ins["torch._dynamo"])["disable"] = _disable
    vars(stand_ins["torch._dynamo.utils"])["is_compile_supported"] = _is_compile_supported
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module(wanted)
    finally:
        withdraw()


def _disable(
    fn: Callable[..., Any] | None = None, recursive: bool = True, *, reason: str | None = None
) -> Callable[..., Any]:
    """Stand in for ``torch._dynamo.disable``, which keeps a function out of a compiled graph.

    timm's NaFlexViT uses it. Nothing is compiled while the stand-in is there.
    """
    return fn if fn is not None else _disable


def _is_compile_supported(device_type: str) -> bool:
    dynamo = importlib.import_module("torch._dynamo.utils")
    return bool(dynamo.is_compile_supported(device_type))
