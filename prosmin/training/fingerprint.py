"""Which modules a module imports, and a checksum of their statements.

The checksum changes with every statement and every message. It does not change with comments,
docstrings, blank lines or layout.
"""

import ast
import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def code(*modules: str, package: Path = PACKAGE) -> str:
    """SHA-256 of the statements of all modules that ``reached`` returns."""
    digest = hashlib.sha256()
    for name, tree in sorted(reached(*modules, packages=[package]).items()):
        digest.update(f"{name}\0{ast.dump(without_docstrings(tree))}\0".encode())
    return digest.hexdigest()


def reached(
    *modules: str, packages: Collection[Path] = (PACKAGE,), skip: Collection[str] = ()
) -> dict[str, ast.Module]:
    """Syntax trees of ``modules`` and of all modules that they import, by dotted name.

    Imports inside functions count. packages: folders of the packages to follow; an import of
    another package ends there. skip: modules that are neither returned nor followed.
    """
    trees: dict[str, ast.Module] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = module_file(name, packages)
        if path is not None and name not in trees and name not in skip:
            trees[name] = ast.parse(path.read_bytes())
            waiting += _imported(trees[name])
    return trees


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


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            # To import a module imports those above it.
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def without_docstrings(tree: ast.Module) -> ast.Module:
    """Remove the docstrings of a syntax tree, in place; returns it."""
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree
