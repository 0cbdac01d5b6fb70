"""timm, torchvision and optimisers without torch.compile, which they load in full and hardly use.

``import timm`` takes 2.4 s, of which 1.7 s go to ``torch._dynamo``: torchvision's RoI align imports
it for a question that it asks on a GPU, and timm for one decorator. The first optimiser of a
process imports it for another decorator. A short program would pay this time at every start. While
timm or torchvision load, and while a model is trained that is not compiled, stand-ins take the
place of the modules of ``torch._dynamo``; any attribute that is wanted beyond theirs comes from the
real module, which then takes their place.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAMES = ("torch._dynamo", "torch._dynamo.utils", "torch._dynamo.eval_frame")


def timm() -> ModuleType:
    """Import timm."""
    return _import_light("timm")


def torchvision_io() -> ModuleType:
    """Import torchvision.io."""
    return _import_light("torchvision.io")


def _import_light(wanted: str) -> ModuleType:
    if wanted in sys.modules or "torchvision" in sys.modules:
        return importlib.import_module(wanted)
    with without_compile():
        return importlib.import_module(wanted)


@contextmanager
def without_compile() -> Iterator[None]:
    """Keep the stand-ins while the block runs, where torch.compile is not loaded yet."""
    if not sys.modules.keys().isdisjoint(NAMES):
        yield
        return
    stand_ins = {name: ModuleType(name) for name in NAMES}

    def withdraw() -> None:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)

    def real(name: str, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked by code that walks through all modules
            raise AttributeError(attribute)
        withdraw()
        return getattr(importlib.import_module(name), attribute)

    finder = _Finder(withdraw)
    for name, module in stand_ins.items():
        vars(module)["__getattr__"] = partial(real, name)
    package, utils, eval_frame = map(vars, stand_ins.values())
    package |= {"__path__": [], "disable": _disable, "graph_break": _graph_break}
    package["eval_frame"] = stand_ins["torch._dynamo.eval_frame"]
    utils["is_compile_supported"] = _is_compile_supported
    eval_frame["OptimizedModule"] = _OptimizedModule
    sys.modules.update(stand_ins)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        withdraw()


class _Finder:
    """Finds the modules of the real ``torch._dynamo`` that have no stand-in, and loads it whole."""

    def __init__(self, withdraw: Callable[[], None]):
        self._withdraw = withdraw

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith("torch._dynamo."):
            return None
        self._withdraw()
        return ModuleSpec(name, _Loaded(importlib.import_module(name)))


class _Loaded(Loader):
    """Hands out a module that is loaded already, as it is."""

    def __init__(self, module: ModuleType):
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _disable(
    fn: Callable[..., Any] | None = None,
    recursive: bool = True,
    *,
    reason: str | None = None,
    wrapping: bool = True,
) -> Callable[..., Any]:
    """Stand in for ``torch._dynamo.disable``, which keeps a function out of a compiled graph.

    timm's NaFlexViT and optimisers use it. Nothing is compiled while the stand-in is there.
    """
    return fn if fn is not None else _disable


def _graph_break() -> None:
    """Stand in for ``torch._dynamo.graph_break``, which ends a compiled graph at this place."""


class _OptimizedModule:
    """Stands in for the type of compiled modules, of which there are none."""


def _is_compile_supported(device_type: str) -> bool:
    dynamo = importlib.import_module("torch._dynamo.utils")
    return bool(dynamo.is_compile_supported(device_type))
