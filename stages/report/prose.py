"""Numbers as text, and the sentences of the report that contain numbers."""

from pathlib import Path

from prosmin.common.encoders import TRAINED, UNTRAINED
from prosmin.corruptions import BENCHMARK
from prosmin.evaluation.ood_scores import DETECTORS
from prosmin.metrics.catalogue import entry_of
from stages.common import layout
from stages.params.pretrain import HubWeights
from stages.report.figures.lines import detector_line
from stages.report.inputs import Inputs
from stages.report.tables.detection import ood_sets, ranges
from stages.report.tables.rows import Row, Value, row

MINUS = "\u2212"
TO = "\u2060\u2013\u2060"  # an en dash without a line break


def number(value: float, digits: int = 3) -> str:
    """A number with a fixed number of decimals."""
    return f"{value:.{digits}f}".replace("-", MINUS)


def score(value: float) -> str:
    """A score of any size, with three significant digits or three decimals."""
    return f"{value:{'.3f' if 0.001 <= abs(value) < 10 else '.3g'}}".replace("-", MINUS)


def percent(share: float) -> str:
    """A share in [0, 1] as per cent."""
    return f"{100 * share:.1f}\u00a0%"


def whole(count: float) -> str:
    """A whole number with a narrow space between thousands."""
    return f"{count:,.0f}".replace(",", "\u202f")


def interval(value: Value, digits: int = 3) -> str:
    """The interval as ``low-high``, empty where the value has none."""
    return (
        ""
        if value.low is None or value.high is None
        else f"{number(value.low, digits)}{TO}{number(value.high, digits)}"
    )


def _percent_interval(value: Value) -> str:
    return (
        ""
        if value.low is None or value.high is None
        else f" (95\u00a0% interval {100 * value.low:.1f}{TO}{percent(value.high)})"
    )


def _row(inputs: Inputs, stage: str, metric: str, section: str = "") -> Row | None:
    content = inputs.metrics(layout.metrics(stage))
    return row(content, metric, section=section) if content else None


def abstract(inputs: Inputs) -> str:
    """One paragraph: encoder, dataset and headline numbers, with those of the untrained encoder."""
    sentences = (
        _pretraining(inputs),
        _probe(inputs),
        _few_labels(inputs),
        _ood(inputs),
        _corruption(inputs),
    )
    return " ".join(filter(None, sentences))


def method(inputs: Inputs) -> str:
    """The name of the objective, or of the encoder where its weights come from elsewhere."""
    settings = inputs.params.pretrain
    return settings.encoder.name if settings.external else settings.objective.title


def before(inputs: Inputs) -> str:
    """The weights of the network whose numbers stand beside those of the trained one."""
    if not inputs.params.pretrain.initial:
        return "its random initial weights"
    return f"the weights that training started from ({_given(inputs, 'initial')})"


def _pretraining(inputs: Inputs) -> str:
    settings, trained = inputs.params.pretrain, inputs.metrics(layout.metrics("pretrain"))
    dataset, name = inputs.params.dataset, settings.encoder.name
    colour = "grey" if settings.channels == 1 else "colour"
    size = f"{settings.image_size} × {settings.image_size} {colour} pixels"
    if settings.external:
        source = _given(inputs, "external")
        count = f" of {whole(trained.number('encoder_parameters'))} parameters" if trained else ""
        return (
            f"A {name}{count} with weights trained by others ({source}) was evaluated on images of "
            f"{dataset} ({size})."
        )
    if not trained:
        return f"A {name} is to be pretrained by {method(inputs)} on images of {dataset} ({size})."
    parameters, images = (whole(trained.number(key)) for key in ("encoder_parameters", "images"))
    start = f", from {_given(inputs, 'initial')} on," if settings.initial else ""
    return (
        f"A {name} of {parameters} parameters was pretrained{start} by {method(inputs)} for "
        f"{trained.number('epochs')} epochs on {images} images of {dataset} ({size}), without "
        "labels."
    )


def _given(inputs: Inputs, key: str) -> str:
    """The weights that ``pretrain.<key>`` names, without their folder on this machine.

    The checksum is that of a file.
    """
    given = getattr(inputs.params.pretrain, key)
    if isinstance(given, HubWeights):
        return f"{given.repo} at {given.revision[:12]}"
    if made := inputs.origin().section(key):
        return f"{made['weights']}, SHA-256 {made['sha256']}"
    return Path(given.path).name


def _probe(inputs: Inputs) -> str:
    accuracy = _row(inputs, "linear", "accuracy")
    if not accuracy:
        return ""
    n = inputs.metrics(layout.metrics("linear"))[TRAINED].number("n")
    said = (
        f"A linear probe on its frozen features is right on {percent(accuracy.trained.value)} of "
        f"{whole(n)} test images{_percent_interval(accuracy.trained)}"
    )
    if accuracy.random:
        floor = inputs.params.pretrain.shown[UNTRAINED]
        said += f"; on the features of the {floor} network it is right on "
        said += percent(accuracy.random.value) + _percent_interval(accuracy.random)
    return f"{said}."


def _few_labels(inputs: Inputs) -> str:
    few = max(inputs.params.lowshot.per_class, default=0)
    accuracy = _row(inputs, "lowshot", "accuracy", f"per_class_{few}")
    return (
        f"From {_labels(few)} per class the mean is {percent(accuracy.trained.value)}."
        if accuracy
        else ""
    )


def _labels(count: int) -> str:
    return f"{count} label{'s' if count > 1 else ''}"


def _ood(inputs: Inputs) -> str:
    sets = ood_sets(inputs)
    auroc_ranges, evaluated = ranges(sets), sum(bool(ood_set.detections) for ood_set in sets)
    spans = [
        f"{auroc_ranges[name][0]:.2f}{TO}{auroc_ranges[name][1]:.2f} by {detector_line(name).label}"
        for name, entry in DETECTORS.items()
        if entry.headline and name in auroc_ranges
    ]
    if not spans:
        return ""
    joined = " and ".join(filter(None, (", ".join(spans[:-1]), spans[-1])))
    return (
        f"Against {evaluated} out-of-distribution set{'s' * (evaluated > 1)} the AUROC is {joined}."
    )


def _corruption(inputs: Inputs) -> str:
    error = _row(inputs, "corrupt", "mce_unnormalised")
    types = sum(name in BENCHMARK for name in inputs.params.corrupt.types)
    return (
        f"Over {types} types of corruption the mean error is {percent(error.trained.value)}."
        if error
        else ""
    )


def limits(inputs: Inputs) -> str:
    """The limits of what the numbers tell."""
    return (
        f"One seed ({inputs.params.seed}). Intervals cover the choice of test images (few labels: "
        "the draw of the labels too), not the change from one seed to another. All settings that "
        "this run selected were selected on held-out training data."
    )


def cards(inputs: Inputs) -> list[tuple[str, str, str, str]]:
    """The numbers to read first: (title, value, interval, value of the untrained encoder)."""
    few = max(inputs.params.lowshot.per_class, default=0)
    accuracy, error = entry_of("accuracy"), entry_of("mce_unnormalised")
    wanted = [
        (f"Linear probe {accuracy.label}", _row(inputs, "linear", "accuracy")),
        (f"k-NN {accuracy.label}", _row(inputs, "knn", "accuracy")),
        (
            f"{accuracy.title}, {_labels(few)} per class",
            _row(inputs, "lowshot", "accuracy", f"per_class_{few}"),
        ),
        (entry_of("ece_calibrated").title, _row(inputs, "linear", "ece_calibrated")),
        (f"{error.title}, corrupted", _row(inputs, "corrupt", "mce_unnormalised")),
    ]
    return [
        (
            title,
            number(metric.trained.value, metric.digits),
            interval(metric.trained, metric.digits),
            number(metric.random.value, metric.digits) if metric.random else "",
        )
        for title, metric in wanted
        if metric
    ]
