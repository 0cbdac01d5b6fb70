"""The README, the docs and the files about the project say what the code and the metrics say."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import prosmin

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]

# The rows of the README's table, each with the file and the key that hold its number.
ROWS = {
    "linear probe: accuracy": ("linear", "accuracy"),
    "linear probe: calibration error": ("linear", "ece"),
    "10 labels per class: accuracy": ("lowshot", "per_class_10.accuracy"),
    "OOD detection, halves": ("ood/digits_halves", "knn.auroc"),
    "13 types of corruption: mean error": ("corrupt", "mce_unnormalised"),
    "transfer to patches": ("transfer/patches", "accuracy"),
}


def value(metrics: dict, key: str) -> float:
    for step in key.split("."):
        metrics = metrics[step]
    return metrics


@pytest.mark.parametrize("start", ROWS)
def test_the_readme_has_the_numbers_of_the_recorded_run(start):
    name, key = ROWS[start]
    metrics = json.loads((ROOT / f"metrics/{name}.json").read_text())
    trained, random = metrics["trained"], metrics["random"]
    expected = [
        f"{value(trained, key):.3f}",
        f"{value(trained, f'{key}_low'):.3f} - {value(trained, f'{key}_high'):.3f}",
        f"{value(random, key):.3f}",
    ]
    line = next(line for line in README.splitlines() if line.startswith(f"| {start}"))
    assert [cell.strip() for cell in line.strip("|").split("|")][1:] == expected


def drawing(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / "docs/graph.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_graph_in_the_readme_is_that_of_dvc_yaml():
    assert drawing().returncode == 0


def test_a_stale_graph_is_reported_and_drawn_again(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/graph.py").write_text((ROOT / "docs/graph.py").read_text())
    (tmp_path / "README.md").write_text(README)
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    graph["stages"]["poem"] = {"cmd": "true", "deps": ["results/linear"], "outs": ["results/poem"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(graph, sort_keys=False))
    done = drawing(root=tmp_path)
    assert done.returncode == 1 and "stale" in done.stderr
    assert drawing("--write", root=tmp_path).returncode == 0
    new = (tmp_path / "README.md").read_text()
    assert re.search(r"linear --> .*& poem\n", new)
    assert drawing(root=tmp_path).returncode == 0
    before, after = (re.split(r"```mermaid\n.*?```\n", text, flags=re.S) for text in (README, new))
    assert before == after


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:href|src)="([^"]+)"', text)
    for link in links:
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_the_citation_and_the_changelog_have_the_version_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == prosmin.__version__ == project["version"]
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]
    assert f"\n## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_help_of_make_names_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, flags=re.M)[1].split())
    named = set(re.findall(r"^#   make (\w+) ", makefile, flags=re.M))
    assert named == targets - {"help", "environment"}


def test_ci_runs_the_oldest_and_the_newest_python_at_pinned_actions():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    content = yaml.safe_load(workflow)
    job = content["jobs"]["check"]
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest, newest = re.fullmatch(r">=(3\.\d+),<3\.(\d+)", requires).groups()
    assert job["strategy"]["matrix"]["python"] == [oldest, f"3.{int(newest) - 1}"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert all(
        re.search(r"@v\d+\.\d+\.\d+$", step["uses"]) for step in job["steps"] if "uses" in step
    )
