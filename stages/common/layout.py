"""Where stages write and others read: paths of results, metrics and plots, relative to the project.

A stage with several items (``ood`` of each OOD set) has a file or folder per item.
"""

import os
from pathlib import Path

METRICS, PLOTS, RESULTS = Path("metrics"), Path("plots"), Path("results")


def results(stage: str, item: str = "") -> Path:
    """The folder of a stage: ``results/<stage>`` or ``results/<stage>/<item>``."""
    return RESULTS / stage / item


def metrics(stage: str, item: str = "") -> Path:
    """The numbers of a stage: ``metrics/<stage>.json`` or ``metrics/<stage>/<item>.json``."""
    return METRICS / (f"{stage}/{item}.json" if item else f"{stage}.json")


def plot(stage: str, name: str) -> Path:
    """A curve of a stage: ``plots/<stage>/<name>.csv``. name: of the item or of the curve."""
    return PLOTS / stage / f"{name}.csv"


PRETRAINED = results("pretrain")
DESCRIPTION = PRETRAINED / "model.json"
VIEWS = PRETRAINED / "views.safetensors"
ENCODER_WEIGHTS = PRETRAINED / "encoder.safetensors"
LOSS, DIAGNOSTICS = plot("pretrain", "loss"), plot("pretrain", "diagnostics")
ONLINE_PROBE = plot("pretrain", "probe")
RELIABILITY = plot("linear", "reliability")
LOWSHOT_DRAWS = plot("lowshot", "accuracy")
CORRUPTION_ACCURACY = plot("corrupt", "accuracy")
KNN_GRID = plot("knn", "grid")
SUMMARY = Path("summary.json")  # not in metrics/, on all of which its stage depends
EXPORT = results("export")
REPORT = results("report") / "index.html"
COMPARISON = results("compare") / "index.html"
STUDIES = results("study")  # a folder per study

# Names another folder for the checkpoints of a pretraining, which may outlive an experiment.
CHECKPOINTS = "PROSMIN_CHECKPOINTS"


def checkpoints() -> Path:
    """Where a pretraining that has not ended keeps its checkpoints."""
    return Path(os.environ.get(CHECKPOINTS) or ".prosmin/checkpoints")


DOUBT = "doubt."  # start of the fields of label-free scores in a file of features


def features(dataset: str, encoder: str) -> Path:
    """The features of a dataset by one of ``prosmin.common.encoders.ENCODERS``."""
    return results("embed", dataset) / f"{encoder}.safetensors"


def probe(encoder: str, selected: bool = False) -> Path:
    """The linear probe of one encoder. selected: the one that was fitted to train alone."""
    return results("linear") / f"{encoder}{'_train' if selected else ''}.safetensors"


def recalibration(encoder: str) -> Path:
    """The ways of calibration of the linear probe of one encoder."""
    return results("calibrate") / f"{encoder}.safetensors"


def detectors(encoder: str) -> Path:
    """The OOD detectors of one encoder, fitted to the dataset."""
    return results("detectors") / f"{encoder}.safetensors"


def ood_scores(name: str) -> Path:
    """The scores of every detector on an OOD set and on the in-distribution test images."""
    return results("ood", name) / "scores.safetensors"


def ood_examples(name: str) -> Path:
    """The images that the report shows of an OOD set."""
    return results("ood", name) / "examples.safetensors"


def prediction_scores(dataset: str) -> Path:
    """The scores of a dataset's images by the predicted distribution."""
    return results("prediction", dataset) / "scores.safetensors"


def audit_examples(dataset: str) -> Path:
    """The images that the report shows of the audit of a dataset."""
    return results("audit", dataset) / "examples.safetensors"


def audit_table(dataset: str, name: str) -> Path:
    """A ranked table of the audit of a dataset: outliers, near_duplicates or labels."""
    return results("audit", dataset) / f"{name}.csv"
