"""Draw the graph of ``dvc.yaml`` into the README, in Mermaid, which GitHub renders.

    python docs/graph.py            # exit code 1 where the drawing in README.md is stale
    python docs/graph.py --write    # draw it again

One node per stage; a stage that exists once per dataset is one node as well. An arrow that follows
from two others is left out.
"""

import argparse
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
GRAPH, README = ROOT / "dvc.yaml", ROOT / "README.md"
DRAWING = re.compile(r"```mermaid\n.*?```\n", re.DOTALL)
WRITTEN = ("outs", "metrics", "plots")  # the sections that name what a stage writes


def stages(text: str) -> dict[str, set[str]]:
    """The stages of ``dvc.yaml`` in its order, each with the stages whose files it reads."""
    definitions = {
        name: definition.get("do", definition)
        for name, definition in yaml.safe_load(text)["stages"].items()
    }
    written = {
        name: [_place(item) for section in WRITTEN for item in definition.get(section, [])]
        for name, definition in definitions.items()
    }
    return {
        name: {
            other
            for other, places in written.items()
            for dependency in map(_place, definition.get("deps", []))
            if other != name and any(_overlap(dependency, place) for place in places)
        }
        for name, definition in definitions.items()
    }


def _place(item: str | dict[str, object]) -> tuple[str, ...]:
    """The path of an entry up to its first reference (``${...}``), split at the slashes."""
    path = item if isinstance(item, str) else next(iter(item))
    return tuple(part for part in path.split("${")[0].split("/") if part)


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph without the arrows that follow from two or more others."""

    def ancestors(name: str) -> set[str]:
        return graph[name].union(*map(ancestors, graph[name]))

    return {name: needed - set().union(*map(ancestors, needed)) for name, needed in graph.items()}


def mermaid(text: str) -> str:
    """The drawing of a ``dvc.yaml``, as a fenced block of Markdown."""
    targets: dict[tuple[str, ...], list[str]] = {}  # the stages that need the same ones
    for name, needed in reduced(stages(text)).items():
        if needed:
            targets.setdefault(tuple(sorted(needed)), []).append(name)
    arrows = [
        f"    {' & '.join(needed)} --> {' & '.join(names)}" for needed, names in targets.items()
    ]
    return "\n".join(["```mermaid", "flowchart LR", *arrows, "```", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="draw it again")
    given = parser.parse_args()
    text, drawing = README.read_text(), mermaid(GRAPH.read_text())
    if (new := DRAWING.sub(drawing, text)) == text:
        return
    if not given.write:
        sys.exit(
            "error: the graph in README.md is stale; draw it with `python docs/graph.py --write`"
        )
    README.write_text(new)


if __name__ == "__main__":
    main()
