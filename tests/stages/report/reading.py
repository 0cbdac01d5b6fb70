"""What the tests of the report read in a page."""

from html.parser import HTMLParser
from pathlib import Path

from stages.params.load import load
from stages.report.inputs import Inputs
from stages.report.page import page

SECTIONS = {
    "results",
    "training",
    "calibration",
    "ood",
    "prediction",
    "uncertainty",
    "corruption",
    "lowshot",
    "views",
    "examples",
    "audit",
    "params",
    "definitions",
}
VOID = {"meta", "img", "br", "link"}


def build():
    return page(Inputs(Path(), load()))


def shown(metrics, name):
    """A number with its interval, as the page writes both."""
    return f"{metrics[name]:.3f} {metrics[f'{name}_low']:.3f}–{metrics[f'{name}_high']:.3f}"


class Tags(HTMLParser):
    """The content of a page.

    tags: (name, attributes) of every opened tag.
    text: the visible words, separated by single spaces.
    open: tags that were never closed.
    """

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)
