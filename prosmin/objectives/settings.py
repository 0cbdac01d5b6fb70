"""The settings of every objective: its name, title, keys, defaults and ranges in one dataclass.

Nothing heavy is imported here, so a program that only reads settings loads no torch. A keyword of
Python has an underscore at its end: a file writes ``lambda`` for ``lambda_``.

Longer than 300 lines, because the settings of all objectives are one union.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

from prosmin.common.settings import (
    Fraction,
    NonNegative,
    Probability,
    Range,
    Refused,
    Several,
    Strength,
    Temperature,
    Width,
    ascending,
    one_of,
)

Estimator = Literal["closed_form", "monte_carlo"]
Normalisation = Literal["none", "centre", "standardise", "whiten"]
NORMALISATIONS = get_args(Normalisation)
Heads = Literal["shared", "own", "stopped"]
HEADS = get_args(Heads)
WidthKind = Literal["predicted", "constant", "fixed"]
WIDTHS = get_args(WidthKind)

# The scoring rules and their estimators. The last two are controls: "distance"
# is the CRPS without its spread term, best at sigma 0; "point" predicts no distribution at all.
RULES: dict[str, tuple[Estimator, ...]] = {
    "crps": ("closed_form", "monte_carlo"),
    "energy": ("monte_carlo",),
    "kernel": ("closed_form", "monte_carlo"),
    "log": ("closed_form",),
    "distance": ("closed_form", "monte_carlo"),
    "point": ("closed_form",),
}
WITH_SPREAD = ("crps", "energy", "kernel")  # the rules that have a lambda

Lambda = Annotated[float, Range()]  # ``check_lambda`` holds its bounds
LogSigma = Annotated[float, Range(least=-30, most=30)]
InitialWidth = Annotated[float, Range(above=0.1, below=1.0)]  # ``prosmin.models.networks.WIDTHS``
Iterations = Annotated[int, Range(least=1, most=1024)]
Samples = Annotated[int, Range(least=2, most=1024)]


def check_lambda(value: float) -> None:
    """Refuse a weight of the spread term for which the score has no minimiser.

    If y ~ N(mu, tau^2), the expected score is smallest at sigma = ``tau *
    scoring.implied_sigma_factor(lambda)``, which grows without bound as lambda approaches sqrt(2);
    at lambda <= 0 spread is never rewarded. Raises ``Refused``.
    """
    if not 0.0 < value < math.sqrt(2.0):
        raise Refused(
            "lambda",
            value,
            "it must be above 0 and below sqrt(2) = 1.4142: from there on the score falls without "
            "bound as sigma grows",
        )


@dataclass(frozen=True, kw_only=True)
class ProSMIN:
    """A predicted distribution under proper scoring rules; ``prosmin.objectives.prosmin``.

    regression: weight of the score ``rule`` of the predicted distribution; 0: no such term.
    identification: weight of ``prosmin.scoring.identification``; 0: no such term.
    heads: of the regression beside the identification. ``shared``: both terms have one mean;
        ``own``: a mean each; ``stopped``: a mean each, and the regression sends no gradient to
        projector and encoder.
    width: of the density that identifies a target: ``predicted`` per image, ``constant`` (learned,
        the same for all images) or ``fixed``.
    initial_width: at the start; of a ``fixed`` width throughout.
    rule: of the regression, one of ``RULES``.
    estimator: the closed form of the score, or its Monte Carlo estimate.
    samples: of the Monte Carlo estimate.
    lambda_: weight of the spread term; the rule is proper at 1 only.
    log_sigma: lowest and highest predicted log standard deviation.
    bandwidth: of the kernel, in the unit of the target.
    normalise: statistics of the batch that are removed from the targets.
    shrinkage: of the targets' covariance towards its mean variance, for ``whiten``.
    noise: standard deviation of Gaussian noise added to the normalised targets.
    """

    title: ClassVar = "ProSMIN"

    name: Literal["prosmin"] = "prosmin"
    regression: NonNegative = 1.0
    identification: NonNegative = 0.0
    heads: Heads = "shared"
    width: WidthKind = "predicted"
    initial_width: InitialWidth = 0.45
    rule: str = "crps"
    estimator: Estimator = "closed_form"
    samples: Samples = 4
    lambda_: Lambda = 1.0
    log_sigma: tuple[LogSigma, LogSigma] = (-4.0, 2.0)
    bandwidth: Temperature = 1.0
    normalise: Normalisation = "whiten"
    shrinkage: Fraction = 0.1
    noise: Strength = 0.0

    def __post_init__(self) -> None:
        one_of("rule", self.rule, RULES)
        one_of("normalise", self.normalise, NORMALISATIONS)
        one_of("heads", self.heads, HEADS)
        one_of("width", self.width, WIDTHS)
        if self.identification == 0:
            self._check_alone()
        ascending("log_sigma", self.log_sigma, strictly=True)
        check_lambda(self.lambda_)
        if self.estimator not in RULES[self.rule]:
            only = f"the rule {self.rule} has only {' and '.join(RULES[self.rule])}"
            raise Refused("estimator", self.estimator, only)
        if self.rule not in WITH_SPREAD and self.lambda_ != 1.0:
            weightless = f"the rule {self.rule} has no spread term to weigh; leave it at 1"
            raise Refused("lambda", self.lambda_, weightless)

    def _check_alone(self) -> None:
        """Refuse keys with which nothing trains the encoder without the identification."""
        if self.regression == 0:
            raise Refused("regression", 0.0, "it must be above 0 where identification is 0")
        if self.heads == "stopped":
            untrained = "nothing would train the encoder; set identification above 0"
            raise Refused("heads", self.heads, untrained)


@dataclass(frozen=True, kw_only=True)
class Published:
    """ProSMIN as its published code has it; ``prosmin.objectives.published``.

    lambda_: weight of the spread term.
    samples: of the Monte Carlo score.
    bottleneck_dim: units before the last layer of the projector.
    centre_momentum: of the moving average that the targets are centred by.
    """

    title: ClassVar = "ProSMIN as published"

    name: Literal["published"] = "published"
    lambda_: Lambda = 1.2
    samples: Samples = 4
    bottleneck_dim: Width = 256
    centre_momentum: Probability = 0.85

    def __post_init__(self) -> None:
        check_lambda(self.lambda_)


@dataclass(frozen=True, kw_only=True)
class BYOL:
    """No keys; ``prosmin.objectives.distillation``."""

    title: ClassVar = "BYOL"

    name: Literal["byol"] = "byol"


@dataclass(frozen=True, kw_only=True)
class SimSiam:
    """``prosmin.objectives.distillation``. predictor_dim: units of the predictor's hidden layer."""

    title: ClassVar = "SimSiam"

    name: Literal["simsiam"] = "simsiam"
    predictor_dim: Width = 32


@dataclass(frozen=True, kw_only=True)
class DINO:
    """Soft assignments to prototypes; ``prosmin.objectives.distillation``.

    prototypes: how many.
    temperature, target_temperature: of the softmax of the online and of the target network.
    centre_momentum: of the moving average that the target's logits are centred by.
    """

    title: ClassVar = "DINO"

    name: Literal["dino"] = "dino"
    prototypes: Several = 1024
    temperature: Temperature = 0.1
    target_temperature: Temperature = 0.04
    centre_momentum: Probability = 0.9


@dataclass(frozen=True, kw_only=True)
class SwAV:
    """Balanced assignments to prototypes; ``prosmin.objectives.distillation``.

    prototypes: how many.
    temperature: of the softmax of the predicted assignment.
    epsilon: entropy of the balanced assignments; near 0 they are hard.
    iterations: of the Sinkhorn-Knopp algorithm that balances them.
    """

    title: ClassVar = "SwAV"

    name: Literal["swav"] = "swav"
    prototypes: Several = 512
    temperature: Temperature = 0.1
    epsilon: Temperature = 0.05
    iterations: Iterations = 3


@dataclass(frozen=True, kw_only=True)
class SimCLR:
    """``prosmin.objectives.contrastive``. temperature: of the softmax over similarities."""

    title: ClassVar = "SimCLR"

    name: Literal["simclr"] = "simclr"
    temperature: Temperature = 0.2


@dataclass(frozen=True, kw_only=True)
class MoCoV3:
    """``prosmin.objectives.contrastive``. temperature: of the softmax over similarities."""

    title: ClassVar = "MoCo-v3"

    name: Literal["mocov3"] = "mocov3"
    temperature: Temperature = 0.2


@dataclass(frozen=True, kw_only=True)
class VICReg:
    """Weights of the three terms of ``prosmin.objectives.regularised``."""

    title: ClassVar = "VICReg"

    name: Literal["vicreg"] = "vicreg"
    invariance: NonNegative = 25.0
    variance: NonNegative = 25.0
    covariance: NonNegative = 1.0


@dataclass(frozen=True, kw_only=True)
class BarlowTwins:
    """``prosmin.objectives.regularised``. redundancy: weight of the off-diagonal correlations."""

    title: ClassVar = "Barlow Twins"

    name: Literal["barlow"] = "barlow"
    redundancy: NonNegative = 0.005


@dataclass(frozen=True, kw_only=True)
class LeJEPA:
    """A Gaussian batch by SIGReg; ``prosmin.objectives.regularised``.

    regularisation: weight of SIGReg; the distance between views has the rest.
    directions: random directions per step, along which the batch is compared with a Gaussian.
    """

    title: ClassVar = "LeJEPA"

    name: Literal["lejepa"] = "lejepa"
    regularisation: Probability = 0.05
    directions: Width = 256


@dataclass(frozen=True, kw_only=True)
class VISReg:
    """A Gaussian batch by its centre, scale and shape; ``prosmin.objectives.regularised``.

    regularisation: weight of these three terms; the distance between views has the rest.
    directions: random directions per step, along which the shape is compared with a Gaussian.
    """

    title: ClassVar = "VISReg"

    name: Literal["visreg"] = "visreg"
    regularisation: Probability = 0.9
    directions: Width = 256


@dataclass(frozen=True, kw_only=True)
class External:
    """An encoder that others have trained; ``prosmin.objectives.external``."""

    title: ClassVar = "external weights"

    name: Literal["external"] = "external"


Objective = (
    ProSMIN
    | Published
    | BYOL
    | SimSiam
    | DINO
    | SwAV
    | SimCLR
    | MoCoV3
    | VICReg
    | BarlowTwins
    | LeJEPA
    | VISReg
    | External
)
BY_NAME: dict[str, type[Objective]] = {kind.name: kind for kind in get_args(Objective)}
TRAINED = {name: kind for name, kind in BY_NAME.items() if kind is not External}


def from_mapping(content: Mapping[str, Any]) -> Objective:
    """The settings with the ``name`` and the keys of ``content``; without a name, those of ProSMIN.

    Raises ``Refused`` for an unknown name and for values that do not go together, ``TypeError``
    for an unknown key.
    """
    name = content.get("name", ProSMIN.name)
    one_of("objective.name", name, BY_NAME)
    return BY_NAME[name](**content)
