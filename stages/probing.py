"""The linear probe of an encoder, for the leaves that judge by its predictions."""

from prosmin.errors import UserError
from prosmin.probes import Probe


def load_probe(encoder: str) -> Probe:
    """What ``stages.linear`` fitted to the features of this encoder. Raises ``UserError`` where there is none."""
    path = f"results/linear/{encoder}.safetensors"
    try:
        return Probe.load(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run `dvc repro` or `python -m stages.linear`") from None
