"""The page of ``prosmin predict --report``: one HTML file about a folder of images, without links.

It shows the most uncertain images, the most unusual, pairs that nearly repeat each other, and
examples per class.
"""

import base64
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from prosmin.common.files import write_text
from prosmin.data.picture import Unreadable, decode
from prosmin.evaluation.knn import Bank
from prosmin.fetching.listing import escape_unprintable
from prosmin.objectives.doubts import DOUBTS
from prosmin.predicting.bundle import Facts
from prosmin.predicting.images import Batch
from prosmin.predicting.model import Predictions

SHOWN = 24  # images of a section
PAIRS = 12
EXAMPLES = 6  # of a class
MEMBERS = 4  # of a conformal set
CLASSES = 100  # with examples, the most frequent
COMPARED = 20_000  # images, the first, among which pairs are sought: 40 MB with 512 features
SIDE = 192  # pixels of a thumbnail's longer side
PIXELATED = 64  # an image of at most this many pixels a side is shown pixel by pixel
NAMES = {"entropy": "entropy", "log_sigma": "log σ"} | {
    name: of.label for name, of in DOUBTS.items()
}


@dataclass(frozen=True)
class Tile:
    """An image on the page.

    name: of the file. title: first line below the image. facts: the other lines.
    unusual: whether the page marks it.
    """

    name: str
    title: str
    facts: tuple[str, ...]
    unusual: bool
    uri: str
    pixelated: bool


@dataclass(frozen=True)
class _Noted:
    """What the page needs of one image."""

    name: str
    label: str
    confidence: float
    members: tuple[str, ...]
    uncertainty: float
    percentile: float
    unusual: bool

    @property
    def facts(self) -> tuple[str, ...]:
        """Lines for the page: the set, where it has several classes, and the OOD percentile."""
        members = ", ".join(self.members[:MEMBERS]) + " …" * (len(self.members) > MEMBERS)
        of_set = (f"set: {members}",) if len(self.members) > 1 else ()
        return (*of_set, f"OOD percentile {self.percentile:.1f}")


class Gathered:
    """The images that the page will show, kept up to date batch by batch.

    folder: the images' folder, from which the page's pictures are read at the end.
    """

    def __init__(self, folder: Path):
        self.folder, self.count, self.unusual = folder, 0, 0
        self.measure = ""
        self.uncertain: list[tuple[float, _Noted]] = []
        self.odd: list[tuple[float, _Noted]] = []
        self.by_class: dict[str, list[tuple[float, _Noted]]] = {}
        self.totals: dict[str, int] = {}
        self._features: list[np.ndarray] = []
        self._names: list[str] = []

    def add(self, batch: Batch, predictions: Predictions) -> None:
        """Take note of a batch and of the predictions for its readable images."""
        names = [name for place, name in enumerate(batch.names) if place not in batch.faults]
        values = np.full(len(names), math.nan)
        if (uncertainty := predictions.uncertainty) is not None:
            self.measure, values = uncertainty
        noted = list(_noted(names, predictions, values))
        self.count += len(noted)
        self.unusual += int(predictions.unusual.sum())
        scores = predictions.scores[list(predictions.scores)[-1]]
        if self.measure:
            self.uncertain = _highest(self.uncertain, zip(values.tolist(), noted), SHOWN)
        self.odd = _highest(self.odd, zip(scores.tolist(), noted), SHOWN)
        for image in noted if predictions.classes else ():
            known = self.by_class.setdefault(image.label, [])
            self.totals[image.label] = self.totals.get(image.label, 0) + 1
            self.by_class[image.label] = _highest(known, [(image.confidence, image)], EXAMPLES)
        room = COMPARED - len(self._names)
        self._features.append(predictions.embedding.features[:room].astype(np.float32))
        self._names += names[:room]

    def write(self, path: Path, facts: Facts, faults: Mapping[str, str]) -> None:
        """Write the page. faults: reasons by file, of files that could not be read."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("prosmin.predicting", ""),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        frequent = sorted(self.by_class, key=lambda name: (-self.totals[name], name))[:CLASSES]
        page = environment.get_template("page.html").render(
            folder=escape_unprintable(self.folder.name or str(self.folder)),
            dataset=facts.dataset,
            encoder=facts.model.encoder,
            count=self.count,
            unusual=self.unusual,
            faults=[(escape_unprintable(name), why) for name, why in list(faults.items())[:SHOWN]],
            fault_count=len(faults),
            measure=NAMES.get(self.measure, self.measure),
            uncertain=[self._tile(image, f"{value:.3f}") for value, image in self.uncertain],
            odd=[self._tile(image) for _, image in self.odd],
            pairs=[(self._bare(a), self._bare(b), f"{gap:.4f}") for gap, a, b in self.pairs()],
            compared=len(self._names),
            classes=[
                (name, self.totals[name], [self._tile(image) for _, image in self.by_class[name]])
                for name in frequent
            ],
            class_count=len(self.by_class),
        )
        write_text(path, page)

    def pairs(self) -> list[tuple[float, str, str]]:
        """The closest pairs of images: distance between normalised features, and both names."""
        if len(self._names) < 2:
            return []
        features = np.concatenate(self._features)
        distances, rows = Bank.fit(features).nearest(features, 2)
        closest = {}
        for place in range(len(rows)):
            # An image may have copies, so that the first neighbour need not be itself.
            column = int(rows[place, 0] == place)
            other = int(rows[place, column])
            pair = (min(place, other), max(place, other))
            closest[pair] = float(distances[place, column])
        order = sorted(closest, key=lambda pair: (closest[pair], pair))[:PAIRS]
        return [(closest[pair], self._names[pair[0]], self._names[pair[1]]) for pair in order]

    def _tile(self, image: _Noted, value: str = "") -> Tile:
        title = f"{image.label} · {image.confidence:.0%}" if image.label else ""
        first = (f"{NAMES.get(self.measure, self.measure)} {value}",) if value else ()
        name, facts = escape_unprintable(image.name), (*first, *image.facts)
        return Tile(name, title, facts, image.unusual, *self._picture(image.name))

    def _bare(self, name: str) -> Tile:
        return Tile(escape_unprintable(name), "", (), False, *self._picture(name))

    def _picture(self, name: str) -> tuple[str, bool]:
        """The thumbnail of a file as data URI, and whether to show it pixel by pixel."""
        try:
            pixels = decode(self.folder / name)
        except Unreadable:  # removed since
            pixels = np.zeros((1, 1, 1), np.uint8)
        image, content = (
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels),
            io.BytesIO(),
        )
        small = max(image.size) <= PIXELATED
        image.thumbnail((SIDE, SIDE))
        if small:
            image.save(content, "PNG")
        else:
            image.save(content, "JPEG", quality=82)
        encoded = base64.b64encode(content.getvalue()).decode()
        return f"data:image/{'png' if small else 'jpeg'};base64,{encoded}", small


def _noted(names: list[str], predictions: Predictions, values: np.ndarray) -> Iterator[_Noted]:
    labels, p, sets = predictions.labels, predictions.probabilities, predictions.sets
    members: tuple[str, ...]
    for place, name in enumerate(names):
        label, confidence, members = "", math.nan, ()
        if labels is not None and p is not None and sets is not None and predictions.classes:
            label, confidence = labels[place], float(p[place].max())
            members = tuple(predictions.classes[number] for number in np.flatnonzero(sets[place]))
        yield _Noted(
            name,
            label,
            confidence,
            members,
            float(values[place]),
            float(predictions.percentiles[place]),
            bool(predictions.unusual[place]),
        )


def _highest(
    known: list[tuple[float, _Noted]], more: Iterable[tuple[float, _Noted]], most: int
) -> list[tuple[float, _Noted]]:
    """The images with the highest values, highest first; of equal values the first stay."""
    return sorted([*known, *more], key=lambda entry: -entry[0])[:most]
