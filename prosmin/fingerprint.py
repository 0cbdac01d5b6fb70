"""What code says, apart from how it is written: a checksum of modules and of all of this package
that they import.

It changes with each statement and each message, and not with comments, docstrings, blank lines or
the place of a line.
"""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent


def code(*modules: str, package: Path = PACKAGE) -> str:
    """SHA-256 of what ``reached`` finds."""
    digest = hashlib.sha256()
    for name, tree in sorted(reached(*modules, package=package).items()):
        digest.update(f"{name}\0{ast.dump(_without_docstrings(tree))}\0".encode())
    return digest.hexdigest()


def reached(*modules: str, package: Path = PACKAGE) -> dict[str, ast.Module]:
    """Modules, such as ``prosmin.training``, and what they import of ``package``, at their top or
    inside a function."""
    trees: dict[str, ast.Module] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _path(name, package)
        if path is not None and name not in trees:
            trees[name] = ast.parse(path.read_bytes())
            waiting += _imported(trees[name])
    return trees


def _path(name: str, package: Path) -> Path | None:
    """The file of a module of ``package``, None for any other. The package itself is none: it holds
    but the version."""
    top, *inside = name.split(".")
    if top != package.name or not inside:
        return None
    path = package.joinpath(*inside)
    return next(
        (found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()),
        None,
    )


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
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
    return tree
