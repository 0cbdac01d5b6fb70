"""The graph and the code agree: a stage lists the modules it imports, and no more."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# How a stage is started, reads its settings, words an error and writes a file decides no number; a change there must
# not re-run the graph.
PLUMBING = {
    "stages.command",
    "stages.declared",
    "stages.inputs",
    "stages.proof",
    "stages.params",
    "stages.reading",
    "stages.stopping",
    "stages.threads",
    "prosmin.allocator",
    "prosmin.errors",
    "prosmin.files",
}


def source(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next(
        (found for found in (path.with_suffix(".py"), path / "__main__.py", path / "__init__.py") if found.is_file()),
        None,
    )


def imported(module: str) -> set[str]:
    """Modules of this project that a module imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(source(module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    packages = ("prosmin", "stages", "pipelines")
    return {name for name in names if name.split(".")[0] in packages and name not in packages and source(name)}


def reached(module: str) -> set[Path]:
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen and name not in PLUMBING:
            seen.add(name)
            waiting += imported(name)
    return {source(name).relative_to(ROOT) for name in seen}


def test_every_file_of_a_stage_that_is_a_package_is_listed():
    for init in (ROOT / "stages").glob("*/__init__.py"):
        listed = set(STAGES[init.parent.name]["deps"])
        files = {path for path in init.parent.iterdir() if path.is_file() and path != init}
        assert {str(path.relative_to(ROOT)) for path in files} <= listed


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_lists_exactly_the_modules_it_imports(stage):
    definition = STAGES[stage].get("do", STAGES[stage])
    listed = {Path(name) for name in definition["deps"] if name.endswith(".py")}
    assert listed == reached(f"stages.{stage}")


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_name_of_a_stage_is_its_module_its_section_and_its_folders(stage):
    definition = STAGES[stage].get("do", STAGES[stage])
    assert definition["cmd"].split()[:3] == ["python", "-m", f"stages.{stage}"]
    assert stage in yaml.safe_load((ROOT / "params.yaml").read_text())
    written = [
        next(iter(out)) if isinstance(out, dict) else out
        for key in ("outs", "metrics", "plots")
        for out in definition.get(key, [])
    ]
    for path in written:
        parts = Path(path).parts
        assert parts[0] == "data" and stage == "fetch" or Path(parts[1]).stem == stage, path


@pytest.mark.parametrize("kind", ["metrics", "plots"])
def test_metrics_and_plots_are_kept_by_git(kind):
    for name, stage in STAGES.items():
        for out in stage.get("do", stage).get(kind, []):
            assert next(iter(out.values()))["cache"] is False, name
