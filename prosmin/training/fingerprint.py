"""Which modules a module imports, and a checksum of their statements.

The checksum changes with every statement and every message. It does not change with comments,
docstrings, blank lines or layout.
"""

import ast
import functools
import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple, TypeGuard

PACKAGE = Path(__file__).parents[1]

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code(*modules: str, package: Path = PACKAGE) -> str:
    """SHA-256 of the statements of all modules that ``reached`` returns."""
    digest = hashlib.sha256()
    for name, path in sorted(reached(*modules, packages=[package]).items()):
        tree = _without_docstrings(ast.parse(path.read_bytes()))
        digest.update(f"{name}\0{ast.dump(tree)}\0".encode())
    return digest.hexdigest()


def reached(
    *modules: str, packages: Collection[Path] = (PACKAGE,), skip: Collection[str] = ()
) -> dict[str, Path]:
    """Files of ``modules`` and of all modules that they import, by dotted name.

    Imports inside functions count. packages: folders of the packages to follow; an import of
    another package ends there. skip: modules that are neither returned nor followed.
    """
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in files or name in skip:
            continue
        path = module_file(name, packages)
        if path is not None:
            files[name] = path
            waiting += facts(path.read_bytes()).imports
    return files


def module_file(name: str, packages: Collection[Path]) -> Path | None:
    """The file of a module inside one of ``packages``, None for any other module.

    The ``__init__`` of a package in ``packages`` itself is not returned: it decides no result.
    """
    top, *inside = name.split(".")
    package = next((path for path in packages if path.name == top), None)
    if package is None or not inside:
        return None
    path = package.joinpath(*inside)
    candidates = path.with_suffix(".py"), path / "__main__.py", path / "__init__.py"
    return next((file for file in candidates if file.is_file()), None)


class Facts(NamedTuple):
    """What the source of a module says.

    imports: the modules that it may import, by dotted name; some are names inside a module.
    is_docstring: whether it has no statement but a docstring.
    """

    imports: tuple[str, ...]
    is_docstring: bool


@functools.cache
def facts(source: bytes) -> Facts:
    """Parse the source of a module, once for all callers."""
    tree = ast.parse(source)
    return Facts(tuple(dict.fromkeys(_imported(tree))), not tree.body[_has_docstring(tree) :])


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            # To import a module imports those above it.
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Remove the docstrings of a syntax tree, in place; returns it."""
    for node in ast.walk(tree):
        if _has_docstring(node):
            node.body = node.body[1:]
    return tree


def _has_docstring(node: ast.AST) -> TypeGuard[_Documented]:
    return isinstance(node, _Documented) and ast.get_docstring(node, clean=False) is not None
