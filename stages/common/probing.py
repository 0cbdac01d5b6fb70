"""The linear probe of an encoder, for the leaves that judge by its predictions."""

from pathlib import Path

from prosmin.common.errors import UserError
from prosmin.evaluation.linear_probe import Probe

FOLDER = Path("results/linear")


def load_probe(encoder: str) -> Probe | None:
    """The probe of ``stages.linear`` for this encoder, None where the dataset has no labels for one.

    Raises ``UserError`` where ``stages.linear`` has not run.
    """
    path = FOLDER / f"{encoder}.safetensors"
    if FOLDER.is_dir() and not any(FOLDER.iterdir()):
        return None
    try:
        return Probe.load(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; run `dvc repro` or `python -m stages.linear`"
        ) from None
