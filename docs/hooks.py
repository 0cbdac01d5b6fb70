"""What the site has beside the pages of docs/, for MkDocs (``hooks`` in mkdocs.yml).

- The pages of the top folder, such as the README, which is the first page.
- A page per package of ``prosmin``, made from its docstrings.
- The graph of the pipeline as a drawing, where the README has Mermaid.
"""

import re

from drawing import svg
from graph import GRAPH, ROOT, reduced, stages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff")
DOCS = re.compile(r"(\]\(|(?:href|src)=\")docs/")  # how a page of the top folder begins a link
UP = re.compile(r"\]\(\.\./(?=(?:%s))" % "|".join(map(re.escape, TOP)))
MERMAID = re.compile(r"```mermaid\n.*?```\n", re.DOTALL)


def packages() -> list[str]:
    """The dotted names of ``prosmin`` and of the packages directly in it."""
    inside = sorted(path.parent.name for path in ROOT.glob("prosmin/*/__init__.py"))
    return ["prosmin", *(f"prosmin.{name}" for name in inside)]


def on_config(config: MkDocsConfig) -> None:
    """Put the pages about packages at the end of the table of contents."""
    config.nav.append({"Reference": [f"reference/{name}.md" for name in packages()]})


def on_files(files: Files, config: MkDocsConfig) -> None:
    for name in TOP:
        text = (ROOT / name).read_text()
        files.append(File.generated(config, name, content=DOCS.sub(r"\1", text)))
    for name in packages():
        files.append(File.generated(config, f"reference/{name}.md", content=reference(name)))


def reference(package: str) -> str:
    """The page of a package, with all its modules where it is not ``prosmin`` itself."""
    below = "false" if package == "prosmin" else "true"
    options = f"{{heading_level: 1, show_submodules: {below}}}"
    return f"---\ntitle: {package}\n---\n\n::: {package}\n    options: {options}\n"


def on_page_markdown(markdown: str, **given: object) -> str:
    drawing = f'<div class="graph">{svg(reduced(stages(GRAPH.read_text())))}</div>\n'
    return UP.sub("](", MERMAID.sub(lambda mermaid: drawing, markdown))
