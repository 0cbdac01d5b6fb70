"""Every metric: its name in ``metrics/``, label, range, definition, and whether higher is better.

The report, the terminal, the model card, comparisons, sweeps and the modules for ``evaluate`` read
from here. ``python -m prosmin.metrics.catalogue`` prints the table of docs/evaluation.md, which a
test compares with the document. Longer than 300 lines because it is one list.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

Better = Literal["higher", "lower", "neither"]
Group = Literal[
    "classification",
    "conformal",
    "validation",
    "ood",
    "prediction",
    "uncertainty",
    "audit",
    "corruption",
    "training",
]
ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓", "neither": ""}


@dataclass(frozen=True)
class Entry:
    """One metric.

    name: key in a metrics file, or column of a plot.
    label: name on pages and in the terminal.
    group: the evaluation that computes it.
    better: ``neither`` where the best value is in between, or where the number only informs.
    low, high: ends of the range.
    definition: one or two sentences.
    unit: of the value, or the meaning of the value in a few words.
    relative: a ratio to a reference model, which has 1 by definition.
    """

    name: str
    label: str
    group: Group
    better: Better
    low: float
    high: float
    definition: str
    unit: str = ""
    relative: bool = False

    @property
    def title(self) -> str:
        """The label with a capital first letter."""
        return self.label[0].upper() + self.label[1:]

    @property
    def higher_is_better(self) -> bool | None:
        """None where neither direction is better."""
        return None if self.better == "neither" else self.better == "higher"

    def verdict(self, gain: float) -> str:
        """``better`` or ``worse`` for a value that is higher by ``gain``, which is not 0.

        Empty where neither direction is better.
        """
        if self.higher_is_better is None:
            return ""
        return "better" if (gain > 0) == self.higher_is_better else "worse"

    @property
    def range(self) -> str:
        """The range in brackets, such as ``[0, 1]``; an infinite end has a round bracket."""
        low = "(−∞" if math.isinf(self.low) else f"[{_number(self.low)}"
        high = "∞)" if math.isinf(self.high) else f"{_number(self.high)}]"
        return f"{low}, {high}"


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


METRICS = (
    # --- classification: linear probe, k-NN, transfer, shift, fine-tuning ---
    Entry(
        "accuracy", "accuracy", "classification", "higher", 0, 1,
        "Share of test images whose highest-scored class is their label.",
    ),
    Entry(
        "accuracy_top5", "accuracy, top 5", "classification", "higher", 0, 1,
        "Share of test images whose label is among the five highest-scored classes. "
        "Reported for six classes or more.",
    ),
    Entry(
        "nll", "NLL", "classification", "lower", 0, math.inf,
        "Mean negative log-likelihood of the label.", "nats",
    ),
    Entry(
        "brier", "Brier", "classification", "lower", 0, 2,
        "Brier score: squared error of the class probabilities, summed over classes, "
        "mean over images.",
    ),
    Entry(
        "aurc", "AURC", "classification", "lower", 0, 1,
        "Area under the risk-coverage curve: the share of errors among the n most confident "
        "answers, mean over n; ties count in all their orders. Low where confidence separates "
        "right from wrong answers, equal to the error rate where it does not.",
    ),
    Entry(
        "ece", "ECE", "classification", "lower", 0, 1,
        "Expected calibration error of the top label: mean |confidence − accuracy| over 15 bins of "
        "equal width, weighted by the number of images.",
    ),
    Entry(
        "ece_adaptive", "ECE, adaptive", "classification", "lower", 0, 1,
        "Expected calibration error of the top label over 15 bins with equally many images.",
    ),
    Entry(
        "ece_classwise", "ECE, class-wise", "classification", "lower", 0, 1,
        "Calibration error of the probability of each class over 15 bins of equal width, mean over "
        "classes.",
    ),
    Entry(
        "conformal_coverage", "coverage of 90 % sets", "conformal", "neither", 0, 1,
        "Share of test images whose conformal set of classes holds their label. The best value is "
        "0.9, or the accuracy where it is higher, because every set holds the most probable class.",
    ),
    Entry(
        "conformal_size", "size of 90 % sets", "conformal", "lower", 1, math.inf,
        "Mean number of classes in the conformal set. Of two classifiers with the same coverage, "
        "the better one has smaller sets.", "classes",
    ),
    Entry(
        "accuracy_val", "accuracy on val", "validation", "higher", 0, 1,
        "Accuracy on val of the probe that was fitted to train alone. Compare encoders by it to "
        "choose between them.",
    ),
    Entry(
        "nll_val", "NLL on val", "validation", "lower", 0, math.inf,
        "NLL on val of the network that was trained on train alone, by which fine-tuning chooses "
        "its settings.", "nats",
    ),
    # --- OOD detection ---
    Entry(
        "auroc", "AUROC", "ood", "higher", 0, 1,
        "Probability that an OOD image scores higher than an in-distribution image; ties count "
        "half. OOD is the positive class, 0.5 is chance.",
    ),
    Entry(
        "aupr_ood", "AUPR, OOD positive", "ood", "higher", 0, 1,
        "Area under the precision-recall curve (average precision) with OOD as the positive class.",
    ),
    Entry(
        "aupr_id", "AUPR, ID positive", "ood", "higher", 0, 1,
        "Area under the precision-recall curve (average precision) with in-distribution as the "
        "positive class.",
    ),
    Entry(
        "fpr95", "FPR95", "ood", "lower", 0, 1,
        "Share of OOD images accepted at the threshold that accepts 95 % of the in-distribution "
        "test images. In-distribution is the positive class, as in the papers of ODIN and Energy.",
    ),
    Entry(
        "fpr95_ood", "FPR95, OOD positive", "ood", "lower", 0, 1,
        "Share of in-distribution test images rejected at the threshold that rejects 95 % of the "
        "OOD images. OOD is the positive class, as in the FPR95 of OpenOOD and pytorch-ood.",
    ),
    Entry(
        "accuracy_id", "accuracy, in distribution", "ood", "higher", 0, 1,
        "Accuracy of the linear probe on the in-distribution test images.",
    ),
    Entry(
        "n_seen_in_training", "OOD images seen in training", "ood", "neither", 0, math.inf,
        "OOD images with exactly the pixels of a training image, as the network sees them.",
        "images",
    ),
    # --- prediction ---
    Entry(
        "coverage", "coverage", "prediction", "neither", 0, 1,
        "Share of targets inside the central interval of the prediction, over pairs of views and "
        "dimensions. The best value is the level of the interval.",
    ),
    Entry(
        "crps", "CRPS", "prediction", "lower", 0, math.inf,
        "Continuous ranked probability score of the targets under the prediction.",
        "unit of a normalised target",
    ),
    Entry(
        "crps_constant", "CRPS, constant sigma", "prediction", "lower", 0, math.inf,
        "CRPS with the best constant sigma of each dimension in place of the predicted sigma.",
        "unit of a normalised target",
    ),
    Entry(
        "crps_skill", "CRPS skill", "prediction", "higher", -math.inf, 1,
        "1 − crps / crps_constant. Above 0, predicting sigma pays.",
    ),
    Entry(
        "sigma_error_correlation", "rank correlation of sigma and error", "prediction", "higher",
        -1, 1,
        "Spearman's rank correlation over images between mean predicted log sigma and mean "
        "absolute error.",
    ),
    # --- uncertainty ---
    Entry(
        "recall_at_1", "Recall@1", "uncertainty", "higher", 0, 1,
        "Share of test images whose nearest other test image, by cosine of the features, is of "
        "the same class.",
    ),
    Entry(
        "r_auroc", "R-AUROC", "uncertainty", "higher", 0, 1,
        "Probability that an image with a wrong nearest neighbour, as in Recall@1, has a higher "
        "uncertainty than an image with a right one; ties count half. 0.5 is chance, and the value "
        "of a constant.",
    ),
    Entry(
        "crop_test", "crop test", "uncertainty", "higher", 0, 1,
        "Share of test images of which a central crop of 10 to 75 % of the side, drawn at random, "
        "has a higher uncertainty than the whole image. Needs no labels.",
    ),
    Entry(
        "human_correlation", "rank correlation with people", "uncertainty", "higher", -1, 1,
        "Spearman's rank correlation over test images between the uncertainty and the entropy of "
        "the labels that people gave.",
    ),
    Entry(
        "nll_human", "NLL of people's labels", "uncertainty", "lower", 0, math.inf,
        "Cross-entropy of the probabilities of the linear probe to the distribution of the labels "
        "that people gave, mean over test images.", "nats",
    ),
    Entry(
        "ece_human", "ECE against people", "uncertainty", "lower", 0, 1,
        "ECE of the linear probe with the share of people that chose its top label in place of the "
        "accuracy.",
    ),
    # --- audit of a dataset ---
    Entry(
        "likely_wrong", "labels likely wrong", "audit", "neither", 0, 1,
        "Share of audited images for which another class has the largest share of the votes of the "
        "nearest other images, among the classes whose share reaches its mean for images of their "
        "label (confident learning).",
    ),
    Entry(
        "label_auroc", "AUROC of labels made wrong", "audit", "higher", 0, 1,
        "Probability that a label that was replaced by another at random (5 % of all labels) is "
        "more doubtful than a label that was left. Labels that were wrong before count as right.",
    ),
    Entry(
        "label_ap", "average precision of labels made wrong", "audit", "higher", 0, 1,
        "Area under the precision-recall curve of the same labels.",
    ),
    # --- corruption ---
    Entry(
        "accuracy_clean", "accuracy, uncorrupted", "corruption", "higher", 0, 1,
        "Accuracy on the same images without corruption. For a shifted set: on the test images of "
        "the dataset of pretraining, of the same classes.",
    ),
    Entry(
        "mce_unnormalised", "mean error", "corruption", "lower", 0, 1,
        "Error (1 − accuracy), mean over the corruption types of the benchmark and the severities.",
    ),
    Entry(
        "mce", "mCE", "corruption", "lower", 0, math.inf,
        "Mean corruption error: the error summed over severities, divided by that of the "
        "reference; mean over the types of the benchmark. Not comparable with published numbers "
        "where the untrained encoder is the reference.", relative=True,
    ),
    Entry(
        "relative_mce", "relative mCE", "corruption", "lower", -math.inf, math.inf,
        "mCE after subtracting from each error the error of the same model on uncorrupted images. "
        "An encoder near chance has little accuracy to lose, so 1 is easily exceeded.",
        relative=True,
    ),
    Entry(
        "mce_unnormalised_extra", "mean error, extra types", "corruption", "lower", 0, 1,
        "Error, mean over the types that are not part of the benchmark and the severities.",
    ),
    Entry(
        "nll_corrupted", "NLL under corruption", "corruption", "lower", 0, math.inf,
        "NLL, mean over the types of the benchmark and the severities.", "nats",
    ),
    Entry(
        "ece_corrupted", "ECE under corruption", "corruption", "lower", 0, 1,
        "ECE of the images of a type at one severity, mean over the types of the benchmark and the "
        "severities.",
    ),
    Entry(
        "feature_similarity", "feature similarity", "corruption", "higher", -1, 1,
        "Cosine between the features of an image with and without corruption, both centred on the "
        "mean of the uncorrupted features; mean over images, types and severities. Needs no "
        "labels.",
    ),
    # --- training curves ---
    Entry(
        "loss", "training loss", "training", "lower", -math.inf, math.inf,
        "Loss of the objective.", "mean of the epoch",
    ),
    Entry(
        "rankme", "RankMe", "training", "higher", 1, math.inf,
        "exp of the entropy of the singular values of the features; 1 = collapsed to one "
        "direction.",
        "effective rank of the features",
    ),
    Entry(
        "feature_std", "feature std", "training", "higher", 0, 1,
        "Standard deviation over images of features scaled to length 1, times √F for F dimensions.",
        "0 = collapsed, 1 = spread evenly",
    ),
    Entry(
        "sigma_mean", "predicted sigma", "training", "neither", 0, math.inf,
        "Geometric mean of the standard deviations that the predictor gives.", "geometric mean",
    ),
    Entry(
        "sigma_clamped", "sigma at its bounds", "training", "neither", 0, 1,
        "Share of predicted standard deviations at the lower or upper bound of the predictor.",
    ),
    Entry(
        "knn_accuracy", "online k-NN accuracy", "training", "higher", 0, 1,
        "Accuracy of k-NN during training, on images without augmentation and with labels held out "
        "of the training split. A curve to watch, not a result.", "on held-out labels",
    ),
    Entry(
        "probe_accuracy", "online linear probe", "training", "higher", 0, 1,
        "Accuracy of a ridge regression on one-hot labels during training, fitted and tested as "
        "the online k-NN. A curve to watch, not a result.", "on held-out labels",
    ),
)  # fmt: skip
BY_NAME = {entry.name: entry for entry in METRICS}


@dataclass(frozen=True)
class Variant:
    """A suffix of names: the same metric of other values, with the same direction.

    of: names of metrics that may have the suffix.
    suffix: regular expression with one group.
    shown: the names in tables of definitions.
    label: format of the metric's label and the text of the group.
    """

    of: tuple[str, ...]
    suffix: str
    shown: str
    label: str
    definition: str


CALIBRATED = tuple(
    entry.name
    for entry in METRICS
    if entry.group == "classification" and not entry.name.startswith("accuracy")
)
VARIANTS = (
    Variant(
        (*CALIBRATED, "nll_human", "ece_human"), "_(calibrated)", "…_calibrated", "{}, calibrated",
        "After division of the logits by one temperature, fitted on val.",
    ),
    Variant(
        ("nll", "ece", "conformal_coverage", "conformal_size"), "_severity_([1-5])",
        "…_severity_1, … 5", "{}, severity {}",
        "At one severity of corruption, mean over the types of the benchmark.",
    ),
    Variant(
        ("recall_at_1", "r_auroc"), "_(train|val)(?:_neighbours)?",
        "…_train_neighbours, …_val", "{} ({})",
        "Of test images with their neighbours among the training images of the same dataset, and "
        "of the images of val with their neighbours in val.",
    ),
    Variant(
        ("coverage",), "_(50|80|90)", "coverage_50, …_80, …_90", "{} of {} % intervals",
        "The coverage of the central 50, 80 or 90 % interval.",
    ),
)  # fmt: skip


def find(name: str) -> Entry | None:
    """The entry of a metric or of a variant of it; None for any other name."""
    if name in BY_NAME:
        return BY_NAME[name]
    for variant in VARIANTS:
        for base in variant.of:
            if match := re.fullmatch(base + variant.suffix, name):
                entry = BY_NAME[base]
                return replace(entry, name=name, label=variant.label.format(entry.label, match[1]))
    return None


def entry_of(name: str) -> Entry:
    """The same. Raises ``KeyError`` for a name that is no metric."""
    if (entry := find(name)) is None:
        raise KeyError(f"{name} is no metric of prosmin.metrics.catalogue")
    return entry


def higher_is_better(name: str) -> bool | None:
    """None where neither direction is better, and for a name that is no metric."""
    entry = find(name)
    return entry.higher_is_better if entry else None


def of_group(group: Group) -> tuple[str, ...]:
    """The names of the metrics of one evaluation, in the order of tables."""
    return tuple(entry.name for entry in METRICS if entry.group == group)


def markdown() -> str:
    """The table of docs/evaluation.md."""
    lines = ["| name | label | better | range | definition |", "|---|---|---|---|---|"]
    for entry in METRICS:
        unit = f"; {entry.unit}" if entry.unit else ""
        definition = entry.definition.replace("|", r"\|")
        lines.append(
            f"| `{entry.name}` | {entry.label} | {ARROWS[entry.better]} | {entry.range}{unit} "
            f"| {definition} |"
        )
    lines += [f"| `{variant.shown}` | | | | {variant.definition} |" for variant in VARIANTS]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
