"""The shape of the code: sizes of modules and folders, imports, docstrings, words of prosmin/."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("prosmin", "stages", "pipelines")
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
LINES, ENTRIES = 300, 12

# What prosmin/ must not mention, in code, docstrings or messages: it serves any program.
OUTSIDE = re.compile(r"\b(dvc|prefect|params\.yaml|stages?|pipelines\.\w+)\b", re.IGNORECASE)
# The only place that names them, to say so.
ALLOWED = {"prosmin/__init__.py"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def introduction(path: Path) -> str:
    """The docstring of a module, where the reason for an exception stands."""
    return ast.get_docstring(ast.parse(path.read_bytes())) or ""


def test_a_long_module_gives_its_reason():
    """In its docstring, in a sentence such as "Longer than 300 lines, because ..."."""
    others = [path for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("*.py")]
    long = [path for path in MODULES + others if len(path.read_text().splitlines()) > LINES]
    assert not [named(path) for path in long if f"{LINES} lines" not in introduction(path)]


def test_a_full_folder_gives_its_reason():
    """In its __init__.py, in a sentence such as "More than 12 entries, because ..."."""
    full = [folder for folder in {path.parent for path in MODULES} if entries(folder) > ENTRIES]
    reasons = {folder: introduction(folder / "__init__.py") for folder in full}
    assert not [
        named(folder) for folder, reason in reasons.items() if f"{ENTRIES} entries" not in reason
    ]


def entries(folder: Path) -> int:
    """How many files and folders git sees in a folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "."],
        cwd=folder,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    names = {name.split("/")[0] for name in listed.split("\0") if name}
    return sum((folder / name).exists() for name in names)


@cache
def imports() -> dict[str, set[str]]:
    """The modules of the project, each with those that it imports at module level."""
    names = {}
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {
        name: {
            module
            for imported in imported_by(ast.parse(path.read_bytes()).body)
            for module in with_parents(imported)
            if module in names and module != name and not name.startswith(f"{module}.")
        }
        for name, path in names.items()
    }


def imported_by(body: list[ast.stmt]) -> Iterator[str]:
    """The dotted names that statements import when they run; types alone are left out."""
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert not statement.level, "use absolute imports"
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" not in ast.unparse(statement.test):
            yield from imported_by([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try | ast.With):
            yield from imported_by(statement.body)


def with_parents(name: str) -> Iterator[str]:
    """``a``, ``a.b`` and ``a.b.c`` of ``a.b.c``: an import runs all of them."""
    parts = name.split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def test_there_is_no_import_circle():
    waiting = dict(imports())
    while free := [name for name, needed in waiting.items() if not needed & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"a circle is among {', '.join(waiting)}"


def test_prosmin_imports_neither_stages_nor_pipelines_and_stages_no_pipelines():
    below = {"prosmin": {"prosmin"}, "stages": {"prosmin", "stages"}, "pipelines": set(PACKAGES)}
    for name, needed in imports().items():
        assert {module.split(".")[0] for module in needed} <= below[name.split(".")[0]], name


def test_every_public_function_and_class_of_prosmin_has_a_docstring():
    assert not [
        f"{named(path)}: {node.name}"
        for path in MODULES
        if named(path).startswith("prosmin/")
        for node in ast.parse(path.read_bytes()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and not any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)
    ]


def test_prosmin_mentions_no_program_that_uses_it():
    assert not [
        f"{named(path)}:{number}: {line.strip()}"
        for path in MODULES
        if named(path).startswith("prosmin/") and named(path) not in ALLOWED
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if OUTSIDE.search(line)
    ]
