"""The checksum of code follows what training imports, and what is said there, not how it is
written."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prosmin.training import checkpoint, fingerprint

MODULES = sorted(
    path.relative_to(fingerprint.PACKAGE) for path in fingerprint.PACKAGE.rglob("*.py")
)


@pytest.fixture
def package(tmp_path) -> Path:
    return shutil.copytree(
        fingerprint.PACKAGE, tmp_path / "prosmin", ignore=shutil.ignore_patterns("__pycache__")
    )


def code(package: Path) -> str:
    return fingerprint.code(*checkpoint.TRAINS, package=package)


def test_a_comment_a_docstring_or_another_layout_changes_nothing_and_a_statement_does(package):
    before = code(package)
    assert before == fingerprint.code(*checkpoint.TRAINS)
    for path in map(package.joinpath, MODULES):
        path.write_text("# a comment\n\n" + path.read_text() + "\n\n# another\n")
    assert code(package) == before
    path = package / "scoring.py"
    text = path.read_text()
    tree = ast.parse(text)
    function = next(
        node for node in tree.body if isinstance(node, ast.FunctionDef) and ast.get_docstring(node)
    )
    path.write_text(text.replace(ast.get_docstring(function, clean=False), "Other words."))
    assert path.read_text() != text and code(package) == before
    path.write_text(ast.unparse(tree))
    assert code(package) == before
    path.write_text(text + "\nlog_of_two = 0.6931\n")
    assert code(package) != before


def test_it_sees_each_module_that_training_loads_and_no_evaluation(package):
    """The oracle is Python: which modules of the package are there when the modules that train have
    been imported."""
    load = (
        "import sys, importlib; [importlib.import_module(name) for name in sys.argv[1:]]; "
        "print(*sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", load, *checkpoint.TRAINS], capture_output=True, text=True, check=True
    )
    loaded = {name for name in out.stdout.split() if name.startswith("prosmin.")}
    seen = set(fingerprint.reached(*checkpoint.TRAINS))
    assert loaded <= seen
    rooms = {name.split(".")[1] for name in seen}
    assert not rooms & {"evaluation", "corruptions", "fetching", "metrics"}
    before = code(package)
    with open(package / "evaluation/ood_scores.py", "a") as file:
        file.write("another = 1\n")
    assert code(package) == before
    with open(package / "objectives/regularised.py", "a") as file:
        file.write("another = 1\n")
    assert code(package) != before
