"""``python -m pipelines.deps``: the code that each stage of ``dvc.yaml`` depends on.

    python -m pipelines.deps            # exit code 1 where a list in dvc.yaml is not the imports
    python -m pipelines.deps --write    # write the lists anew

A stage depends on the modules that it imports, directly or through others. Where it imports all of
a folder, the folder stands for its files. Data and results in a list stay as they are.
"""

import argparse
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from prosmin.common.errors import listed, say
from prosmin.common.files import write_text
from prosmin.training.fingerprint import facts, reached
from stages.common import declared, proof

# Modules that start a stage, read its settings, word its errors and write its files. They decide no
# result, so a change in them must not re-run the graph.
PLUMBING = {
    "prosmin.common.errors",
    "prosmin.common.files",
    "prosmin.common.files.arrays",
    "prosmin.common.files.atomic",
    "prosmin.common.files.damage",
    "prosmin.common.files.documents",
    "prosmin.common.settings",
    "prosmin.common.startup",
    "stages.common.command",
    "stages.common.current",
    "stages.common.declared",
    "stages.common.hosts",
    "stages.common.inputs",
    "stages.common.launcher",
    "stages.common.layout",
    "stages.common.memory",
    "stages.common.peers",
    "stages.common.proof",
    "stages.common.stopping",
    "stages.common.threads",
    "stages.common.trackers",
    "stages.common.workers",
    "stages.params.evaluation",
    "stages.params.fetch",
    "stages.params.load",
    "stages.params.pretrain",
    "stages.params.schema",
    "stages.params.types",
    "stages.params.yaml_file",
}
PACKAGES = ("prosmin", "stages")
SMALLEST = 3  # files of a folder that one path replaces
COLUMNS = 152

_STAGE = re.compile(r"  (\w+):\n")
_DEPS = re.compile(r"( +)deps:")


def code_of(stage: str, root: Path = Path()) -> list[str]:
    """Files and folders of code that ``stages.<stage>`` imports, relative to ``root``, sorted."""
    packages = [root / name for name in PACKAGES]
    modules = reached(f"stages.{stage}", packages=packages, skip=PLUMBING)
    files = {path.relative_to(root) for path in modules.values() if _decides(path)}
    if (root / "stages" / stage).is_dir():  # templates and styles beside its modules
        files |= {path.relative_to(root) for path in _content(root / "stages" / stage)}
    # Sorted, so that a folder comes before the folders inside it.
    for folder in sorted({path.parent for path in files if len(path.parts) > 2}):
        inside = {path.relative_to(root) for path in _content(root / folder)}
        if len(inside) >= SMALLEST and inside <= files:
            files = files - inside | {folder}
    return sorted(map(str, files))


def _content(folder: Path) -> Iterator[Path]:
    """The files of a folder apart from modules that hold nothing but a docstring."""
    return filter(_decides, map(Path, proof.below(str(folder))))


def _decides(path: Path) -> bool:
    return path.suffix != ".py" or not facts(path.read_bytes()).is_docstring


def written(text: str, root: Path = Path()) -> str:
    """``dvc.yaml`` with the code of every stage as ``code_of`` has it, all else unchanged."""
    lines, stage = text.splitlines(keepends=True), ""
    result = []
    while lines:
        line = lines.pop(0)
        if match := _STAGE.fullmatch(line):
            stage = match[1]
        if match := _DEPS.match(line):
            while lines and re.match(rf"{match[1]} +\S", lines[0]):
                line += lines.pop(0)
            line = _list(match[1], declared.parse(line.encode())["deps"], code_of(stage, root))
        result.append(line)
    return "".join(result)


def _list(indent: str, before: list[str], code: list[str]) -> str:
    """The dependencies of a stage as a YAML list in brackets: data and results first, then code."""
    paths = [path for path in before if path.split("/")[0] not in PACKAGES] + code
    quoted = [f'"{path}"' if "$" in path else path for path in paths]
    head = f"{indent}deps: ["
    return (
        textwrap.fill(
            ", ".join(quoted) + "]",
            width=COLUMNS,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
    )


def differences(old: str, new: str) -> Iterator[str]:
    """Per stage, the code that its list lacks and the code that it need not have.

    old, new: the text of ``dvc.yaml``.
    """
    before, after = _lists(old), _lists(new)
    for stage, wanted in after.items():
        missing, needless = wanted - before[stage], before[stage] - wanted
        parts = [f"lacks {listed(sorted(missing))}"] if missing else []
        parts += [f"lists {listed(sorted(needless))} and imports none of it"] if needless else []
        if parts:
            yield f"{stage} {' and '.join(parts)}"


def _lists(text: str) -> dict[str, set[str]]:
    """The code in the list of each stage."""
    stages = declared.parse(text.encode())["stages"]
    return {
        stage: {
            path for path in body.get("do", body).get("deps", ()) if path.split("/")[0] in PACKAGES
        }
        for stage, body in stages.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.deps", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--write", action="store_true", help="write the lists of dvc.yaml anew")
    options = parser.parse_args()
    text = declared.GRAPH.read_text()
    if (new := written(text)) == text:
        return 0
    for line in differences(text, new):
        print(f"{declared.GRAPH}: {line}")
    if options.write:
        write_text(declared.GRAPH, new)
        return 0
    say(
        f"{declared.GRAPH} lists other code than its stages import; "
        "write it with `python -m pipelines.deps --write`"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
