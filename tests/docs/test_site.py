"""The documentation as a site: built strictly, without a network, and it loads nothing from one."""

import re
import socket
from pathlib import Path

import pytest

pytest.importorskip("material", reason="the extra docs, with MkDocs, is not installed")
pytest.importorskip("mkdocstrings", reason="the extra docs, with mkdocstrings, is not installed")

from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site. A link that leads nowhere, on any page, ends the build."""
    folder = tmp_path_factory.mktemp("site")

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"the build of the site calls {arguments}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
        assert config.strict
        build(config)
    return folder


def test_every_page_of_docs_and_every_package_is_in_the_site(site):
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    assert {path.stem for path in ROOT.glob("docs/*.md")} <= pages
    assert {"index", "CONTRIBUTING", "CHANGELOG", "reference/prosmin.metrics"} <= pages
    assert not list(site.glob("*.py"))
    reference = (site / "reference/prosmin.metrics.html").read_text()
    assert 'id="prosmin.metrics.calibration' in reference


def test_every_block_of_code_is_one(site):
    """MkDocs wants four blanks where GitHub takes two, in the item of a list."""
    assert not [page.name for page in site.rglob("*.html") if "```" in page.read_text()]


def test_the_first_page_has_the_graph_as_a_drawing(site):
    page = (site / "index.html").read_text()
    assert ">pretrain</text>" in page and "mermaid" not in page


def test_no_page_loads_anything_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]*)", text)
        loaded += re.findall(r"<link\b[^>]*\bhref=\"([^\"]*)", text)
        assert loaded and not [to for to in loaded if re.match(r"(https?:)?//", to)], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", style.read_text()), style.name
