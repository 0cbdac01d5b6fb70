"""Which way a metric is better, by its name in docs/evaluation.md: told here, and read from here wherever it matters."""

import re

HIGHER = (
    "accuracy", "accuracy_top5", "accuracy_val", "accuracy_clean", "accuracy_id", "auroc", "aupr_ood", "aupr_id",
    "crps_skill", "sigma_error_correlation", "feature_similarity", "rankme", "feature_std", "knn_accuracy",
)  # fmt: skip
LOWER = (
    "nll", "brier", "ece", "ece_adaptive", "ece_classwise", "aurc", "fpr95", "fpr95_ood", "crps", "crps_constant",
    "mce", "mce_unnormalised", "relative_mce", "loss",
)  # fmt: skip
VARIANT = re.compile("(_calibrated|_extra|_severity_[1-5])$")  # of a metric, better the same way


def higher_is_better(metric: str) -> bool | None:
    """None where neither way is better, as for a coverage, or the name is that of no metric."""
    name = VARIANT.sub("", metric)
    return True if name in HIGHER else False if name in LOWER else None
