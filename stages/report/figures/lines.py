"""Colours, dashes and names of encoders, detectors and scores, the same in every figure."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prosmin.common.encoders import SHOWN, TRAINED, UNTRAINED
from prosmin.evaluation.ood_scores import DETECTORS
from prosmin.evaluation.uncertainty import SCORES


class Line(NamedTuple):
    """The look of an encoder, a detector or a score in every figure.

    colour: name in ``drawing.COLOURS``. dash, marker: as matplotlib names them.
    """

    label: str
    colour: str
    dash: str | tuple[int, tuple[float, ...]] = "-"
    marker: str = "o"

    @property
    def css_dash(self) -> str:
        """The dash as the stroke-dasharray of SVG."""
        dashes = {"-": "none", "--": "5 3", ":": "1.5 2.5", "-.": "6 2.5 1.5 2.5"}
        return (
            dashes[self.dash]
            if isinstance(self.dash, str)
            else " ".join(f"{part:g}" for part in self.dash[1])
        )


ENCODER_LINES = {
    TRAINED: Line(SHOWN[TRAINED], "trained"),
    UNTRAINED: Line(SHOWN[UNTRAINED], "random", "--", "s"),
}


def encoder_lines(shown: Mapping[str, str]) -> dict[str, Line]:
    """The lines of both encoders with the names that they have in a run."""
    return {key: line._replace(label=shown[key]) for key, line in ENCODER_LINES.items()}


CALIBRATION_LINES = {
    "raw": Line("raw", "red", "--", "s"),
    "calibrated": Line("after temperature scaling", "trained"),
}


def detector_line(name: str) -> Line:
    """The line of a detector. A detector that the registry lacks has its name as label, in ink."""
    entry = DETECTORS.get(name)
    return Line(entry.label, entry.colour, entry.dash) if entry else Line(name, "ink", "-")


def score_line(name: str) -> Line:
    """The line of a score of uncertainty. A score that the registry lacks has its name as label."""
    entry = SCORES.get(name)
    return Line(entry.label, entry.colour, entry.dash) if entry else Line(name, "ink", "-")


def detectors_of(names: Iterable[str]) -> list[str]:
    """The detectors without repetition: those of the registry in its order, then others by name."""
    distinct = set(names)
    known = [name for name in DETECTORS if name in distinct]
    return known + sorted(distinct - set(known))


def detectors_drawn(names: Iterable[str]) -> list[str]:
    """The detectors of ``detectors_of`` that figures show; with all, no curve would stand out."""
    return [name for name in detectors_of(names) if name not in DETECTORS or DETECTORS[name].drawn]
