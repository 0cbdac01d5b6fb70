"""The audit of datasets: how many faults there are, and pictures of the likeliest."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prosmin.common.encoders import TRAINED
from prosmin.metrics.catalogue import of_group
from stages.common import layout
from stages.common.command import LEFT_OUT
from stages.report import pictures, prose
from stages.report.inputs import Inputs, Missing, made_by
from stages.report.pictures import Picture
from stages.report.tables.rows import Row, row

# Titles of the tables of ``stages.audit``, in the order of the page.
TITLES = {
    "near_duplicates": "the most alike",
    "outliers": "the most unusual",
    "labels": "the most doubtful labels",
}


class Tile(NamedTuple):
    """An image, or the two images of a pair, with the lines below it."""

    pictures: list[Picture]
    lines: list[str]


class Audited(NamedTuple):
    """The audit of one dataset.

    identical, near: pairs of images by their splits.
    rows: metrics of both encoders.
    strips: title and tiles of each table.
    left_out: why there are no labels, empty where there are. missing: why there is nothing at all.
    """

    name: str
    note: str
    identical: dict[str, int]
    near: dict[str, int]
    rows: list[Row]
    strips: list[tuple[str, list[Tile]]]
    left_out: str
    missing: Missing | None = None


def _place(entry: Mapping[str, str], start: str = "") -> str:
    return f"{entry[f'{start}split']} {entry[f'{start}row']}"


def _short(number: str) -> str:
    return prose.number(float(number))


def _outlier(entry: Mapping[str, str]) -> list[str]:
    return [_place(entry), *filter(None, [entry["label"]]), _short(entry["score"])]


def _pair(entry: Mapping[str, str]) -> list[str]:
    labels = dict.fromkeys(filter(None, (entry["label"], entry["other_label"])))
    alike = "identical" if entry["identical"] == "1" else _short(entry["ratio"])
    return [f"{_place(entry)}, {_place(entry, 'other_')}", " / ".join(labels), alike]


def _doubtful(entry: Mapping[str, str]) -> list[str]:
    return [_place(entry), f"{entry['label']} → {entry['suggested']}", _short(entry["score"])]


LINES = {"near_duplicates": _pair, "outliers": _outlier, "labels": _doubtful}


def section(inputs: Inputs) -> list[Audited]:
    """The audits of all of ``audit.datasets``."""
    return [_audited(inputs, name) for name in inputs.params.audit.datasets]


def _audited(inputs: Inputs, name: str) -> Audited:
    path = layout.metrics("audit", name)
    content, examples = inputs.metrics(path), inputs.arrays(layout.audit_examples(name))
    if not content or examples is None:
        absent = layout.audit_examples(name) if content else path
        return Audited(name, "", {}, {}, [], [], "", made_by(absent, "audit", name))
    tables = {key: inputs.table(layout.audit_table(name, key)) for key in TITLES}
    strips = []
    for key, title in TITLES.items():
        if tables[key] and key in examples:
            examples.check({key: ("uint8", "nCHW")})
            tiles = _tiles(key, tables[key], examples[key], inputs.params.report.examples)
            strips.append((title, tiles))
    trained = content.section(TRAINED)
    return Audited(
        name,
        f"n = {prose.whole(trained.number('n'))} of {prose.whole(content.number('images'))} images",
        dict(content.section("identical")),
        dict(trained.section("near_duplicates")),
        [metric for key in of_group("audit") if (metric := row(content, key))],
        strips,
        content.get(LEFT_OUT, ""),
    )


def _tiles(key: str, table: Sequence[Mapping[str, str]], images: Any, limit: int) -> list[Tile]:
    size = 2 if key == "near_duplicates" else 1
    shown = [pictures.picture(image) for image in images[: limit * size]]
    return [
        Tile(shown[place * size : (place + 1) * size], LINES[key](entry))
        for place, entry in enumerate(table[: len(shown) // size])
    ]
