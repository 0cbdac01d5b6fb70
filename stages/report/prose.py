"""Numbers as the report writes them, and its sentences that are made of numbers."""

from pathlib import Path

from stages.params.load import BENCHMARK
from stages.report.figures import detector_line
from stages.report.inputs import Inputs
from stages.report.tables import Row, Value, ood_sets, ranges, row

MINUS = "\u2212"
TO = "\u2060\u2013\u2060"  # an en dash at which no line is broken

METHODS = {
    "prosmin": "ProSMIN",
    "published": "ProSMIN as published",
    "byol": "BYOL",
    "simsiam": "SimSiam",
    "dino": "DINO",
    "simclr": "SimCLR",
    "mocov3": "MoCo-v3",
    "vicreg": "VICReg",
}

# The detectors that the abstract names; the table has all of them.
ABSTRACT_DETECTORS = ("knn", "mahalanobis", "sigma")


def number(found: float, digits: int = 3) -> str:
    return f"{found:.{digits}f}".replace("-", MINUS)


def score(found: float) -> str:
    """A score of any size."""
    return f"{found:{'.3f' if 0.001 <= abs(found) < 10 else '.3g'}}".replace("-", MINUS)


def percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def whole(count: float) -> str:
    """With a narrow space between thousands."""
    return f"{count:,.0f}".replace(",", "\u202f")


def interval(found: Value, digits: int = 3) -> str:
    """``low-high``, empty where there is none."""
    return (
        ""
        if found.low is None or found.high is None
        else f"{number(found.low, digits)}{TO}{number(found.high, digits)}"
    )


def _percent_interval(found: Value) -> str:
    return (
        ""
        if found.low is None or found.high is None
        else f" (95\u00a0% interval {100 * found.low:.1f}{TO}{percent(found.high)})"
    )


def _row(inputs: Inputs, name: str, metric: str, section: str = "") -> Row | None:
    content = inputs.metrics(name)
    return row(content, metric, metric, section) if content else None


def abstract(inputs: Inputs) -> str:
    """One paragraph: what was trained on what, and the headline numbers beside their floor."""
    sentences = (
        _pretraining(inputs),
        _probe(inputs),
        _few_labels(inputs),
        _ood(inputs),
        _corruption(inputs),
    )
    return " ".join(filter(None, sentences))


def method(inputs: Inputs) -> str:
    """What the numbers are of, in a word or two."""
    settings = inputs.params.pretrain
    return settings.encoder.name if settings.external else METHODS[settings.objective.name]


def _pretraining(inputs: Inputs) -> str:
    settings, trained = inputs.params.pretrain, inputs.metrics("pretrain")
    colour = "grey" if settings.channels == 1 else "colour"
    size = f"{settings.image_size} × {settings.image_size} {colour} pixels"
    if settings.external:
        given = settings.external
        source = (
            _weights(inputs) if given.source == "file" else f"{given.repo} at {given.revision[:12]}"
        )
        count = f" of {whole(trained.number('encoder_parameters'))} parameters" if trained else ""
        return (
            f"A {settings.encoder.name}{count} was taken as others have trained it ({source}) and evaluated on images of "
            f"{inputs.params.dataset} ({size})."
        )
    if not trained:
        return f"A {settings.encoder.name} is to be pretrained by {method(inputs)} on images of {inputs.params.dataset} ({size})."
    return (
        f"A {settings.encoder.name} of {whole(trained.number('encoder_parameters'))} parameters was pretrained by {method(inputs)} "
        f"for {trained.number('epochs')} epochs on {whole(trained.number('images'))} images of {inputs.params.dataset} ({size}), "
        "their labels unseen."
    )


def _weights(inputs: Inputs) -> str:
    """A file of weights by its name and checksum: where it lies on this machine is nothing to a reader."""
    made = inputs.origin().section("external")
    return (
        f"{made['weights']}, SHA-256 {made['sha256']}"
        if made
        else Path(inputs.params.pretrain.external.path).name
    )


def _probe(inputs: Inputs) -> str:
    found = _row(inputs, "linear", "accuracy")
    if not found:
        return ""
    n = inputs.metrics("linear")["trained"].number("n")
    said = f"A linear probe on its frozen features is right on {percent(found.trained.value)} of {whole(n)} test images"
    said += _percent_interval(found.trained)
    if found.random:
        said += (
            "; on the features of the same network at its random initial weights it is right on "
        )
        said += percent(found.random.value) + _percent_interval(found.random)
    return f"{said}."


def _few_labels(inputs: Inputs) -> str:
    few = max(inputs.params.lowshot.per_class, default=0)
    found = _row(inputs, "lowshot", "accuracy", f"per_class_{few}")
    return (
        f"From {_labels(few)} a class the mean is {percent(found.trained.value)}." if found else ""
    )


def _labels(count: int) -> str:
    return f"{count} label{'s' if count > 1 else ''}"


def _ood(inputs: Inputs) -> str:
    sets = ood_sets(inputs)
    found, evaluated = ranges(sets), sum(bool(each.detections) for each in sets)
    spans = [
        f"{found[name][0]:.2f}{TO}{found[name][1]:.2f} by {detector_line(name).label}"
        for name in ABSTRACT_DETECTORS
        if name in found
    ]
    if not spans:
        return ""
    joined = " and ".join(filter(None, (", ".join(spans[:-1]), spans[-1])))
    return (
        f"Against {evaluated} out-of-distribution set{'s' * (evaluated > 1)} the AUROC is {joined}."
    )


def _corruption(inputs: Inputs) -> str:
    found = _row(inputs, "corrupt", "mce_unnormalised")
    types = sum(name in BENCHMARK for name in inputs.params.corrupt.types)
    return (
        f"Over {types} types of corruption the mean error is {percent(found.trained.value)}."
        if found
        else ""
    )


def limits(inputs: Inputs) -> str:
    return (
        f"One seed ({inputs.params.seed}); intervals are over test samples (few labels: over draws of the labels too). "
        "They say nothing of how much another seed would change. What this run selected by itself, it selected on "
        "held-out training data."
    )


def cards(inputs: Inputs) -> list[tuple[str, str, str, str]]:
    """The few numbers to read first: (title, value, its interval, the floor)."""
    few = max(inputs.params.lowshot.per_class, default=0)
    wanted = [
        ("Linear probe accuracy", _row(inputs, "linear", "accuracy")),
        ("k-NN accuracy", _row(inputs, "knn", "accuracy")),
        (
            f"Accuracy, {_labels(few)} a class",
            _row(inputs, "lowshot", "accuracy", f"per_class_{few}"),
        ),
        ("ECE after temperature", _row(inputs, "linear", "ece_calibrated")),
        ("Mean error, corrupted", _row(inputs, "corrupt", "mce_unnormalised")),
    ]
    return [
        (
            title,
            number(found.trained.value, found.digits),
            interval(found.trained, found.digits),
            number(found.random.value, found.digits) if found.random else "",
        )
        for title, found in wanted
        if found
    ]
