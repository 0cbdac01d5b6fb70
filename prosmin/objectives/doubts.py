"""Label-free scores of an image by the networks, high where they are unsure: names and definitions.

Nothing heavy is imported here, so a program that only names the scores loads no torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Doubt:
    """label: for tables and figures. definition: in one sentence."""

    label: str
    definition: str


CANDIDATES = 8192  # training images at most, among whose targets an image looks for its own

DOUBTS: dict[str, Doubt] = {
    "answer_entropy": Doubt(
        "entropy of the answer",
        f"Entropy of the answer to the question which target of up to {CANDIDATES} training images "
        "is that of the image.",
    ),
    "width": Doubt(
        "identification width",
        "Predicted log width of the density by which an image identifies its target.",
    ),
    "mean_norm": Doubt(
        "length of the mean",
        "Minus the length of the predicted mean, before any normalisation: an unsure prediction "
        "shrinks towards the mean of all targets.",
    ),
    "unexplained": Doubt(
        "unexplained variance",
        "1 − |mu|² / D, the share of the variance of D normalised targets that the predicted mean "
        "does not explain.",
    ),
    "projection_norm": Doubt("length of the projection", "Minus the length of the projection."),
}
