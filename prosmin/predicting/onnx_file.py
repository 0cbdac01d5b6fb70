"""An exported model as one ONNX file, for programs without PyTorch.

The input ``images`` is uint8 ``[batch, channels, S, S]`` for any batch, as ``Model.prepare`` makes
it. The outputs are those of ``prosmin.predicting.whole.Whole``. The metadata of the file hold what
a program needs beside them (``notes``).

Letters in shapes: B images, S pixels a side.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prosmin.common.errors import UserError, listed, reason
from prosmin.common.files import write_bytes
from prosmin.metrics import conformal
from prosmin.predicting.model import Model, Predictions
from prosmin.predicting.whole import Whole

NAME = "model.onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
LARGEST = 2**31 - 1  # bytes of a file of protocol buffers
# Largest difference from PyTorch, as a share of the largest value of an output or of 1.
TOLERANCE = 1e-4
CHECKED = (1, 3)  # images per batch of the comparison


def require_packages() -> None:
    """Raise ``UserError`` where a package that makes and checks the file is missing."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"an ONNX file needs {listed(missing)}, which this environment lacks; "
            "install the extra onnx: pip install '.[onnx]'"
        )


def write(path: Path, model: Model) -> None:
    """Write a model on the CPU as an ONNX file; equal models give equal bytes.

    onnxruntime must first give the predictions of ``model`` for images of noise.

    Raises ``UserError`` where a package is missing, where ONNX has no operation for a part of the
    networks, where onnxruntime cannot run the file, and where the predictions differ.
    """
    require_packages()
    whole = Whole(model).eval()
    settings = model.facts.model
    shape = (settings.channels, settings.image_size, settings.image_size)
    content = _serialised(whole, torch.zeros(2, *shape, dtype=torch.uint8), notes(model))
    rng = np.random.default_rng(0)
    for count in CHECKED:
        images = rng.integers(0, 256, (count, *shape), np.uint8)
        try:
            found = run(content, images)
        except Exception as error:  # a type of its own for every fault
            raise UserError(f"onnxruntime cannot run the ONNX file: {reason(error)}") from None
        compare(found, expected(model, images))
    write_bytes(path, content)


def notes(model: Model) -> dict[str, Any]:
    """What a program needs beside the outputs.

    classes: names in the order of the probabilities. temperature: of the probabilities.
    level: share of the sets that hold the label. ood_threshold: the ``ood_mahalanobis`` up to which
    95 % of held-out images of the dataset lie. short_side, interpolation: how an image is resized
    before the centre is cut out.
    """
    facts, probe, reference = model.facts, model.probe, model.reference
    frame = facts.model.frame
    known: dict[str, Any] = {
        "dataset": facts.dataset,
        "short_side": frame.short_side,
        "interpolation": frame.interpolation,
    }
    if probe is not None:
        known |= {
            "classes": facts.classes,
            "temperature": probe.temperature,
            "level": conformal.LEVEL,
        }
    if reference.detectors.means is not None:
        known["ood_threshold"] = reference.accepted("mahalanobis")
    return known


def _serialised(whole: Whole, images: Tensor, known: Mapping[str, Any]) -> bytes:
    """The bytes of the file. images: an example."""
    with torch.no_grad():
        names = list(whole(images))
        try:
            with _quiet():
                program = torch.onnx.export(
                    whole,
                    (images,),
                    dynamo=True,
                    input_names=["images"],
                    output_names=names,
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    verbose=False,
                )
        except Exception as error:  # of nearly any type, by the operation that is missing
            raise UserError(f"the model cannot become an ONNX file: {_first(error)}") from None
    assert program is not None
    proto = program.model_proto
    if (size := proto.ByteSize()) > LARGEST:
        raise UserError(f"the model is {size} bytes; an ONNX file holds at most {LARGEST}")
    _forget_origin(proto)
    for name, value in known.items():
        proto.metadata_props.add(key=name, value=json.dumps(value, ensure_ascii=False))
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _forget_origin(proto: Any) -> None:
    """Remove the lines of code behind each operation, with their paths on this machine."""
    del proto.metadata_props[:]
    for part in (proto.graph, *proto.functions):
        del part.metadata_props[:]
        part.doc_string = ""
        for group in ("node", "value_info", "input", "output", "initializer"):
            for item in getattr(part, group, ()):
                if hasattr(item, "metadata_props"):
                    del item.metadata_props[:]
                if hasattr(item, "doc_string"):
                    item.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep remarks of the exporter about itself off the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _first(error: BaseException) -> str:
    """The error below the exporter's own, which is several pages long."""
    while error.__cause__ is not None:
        error = error.__cause__
    return reason(error)


# --- check ----------------------------------------------------------------------------------------


def run(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of an ONNX file by name, for images uint8 ``[B, channels, S, S]``."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images})))


def expected(model: Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """The same outputs as ``Model`` predicts them."""
    predictions = model.predict_prepared(torch.from_numpy(images))
    found = {"features": predictions.embedding.features} | _of_classes(model, predictions)
    found |= predictions.label_free
    if "mahalanobis" in predictions.scores:
        found["ood_mahalanobis"] = predictions.scores["mahalanobis"]
    return found


def _of_classes(model: Model, predictions: Predictions) -> dict[str, np.ndarray]:
    if model.probe is None or predictions.probabilities is None or predictions.sets is None:
        return {}
    uncertainty = predictions.uncertainty
    assert uncertainty is not None
    return {
        "logits": model.probe.logits(predictions.embedding.features),
        "probabilities": predictions.probabilities,
        "set": predictions.sets,
        "entropy": uncertainty[1],
    }


def compare(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Raise ``UserError`` for outputs that differ by more than ``TOLERANCE``."""
    if found.keys() != wanted.keys():
        raise UserError(f"the ONNX file has the outputs {listed(found)}, not {listed(wanted)}")
    for name, values in wanted.items():
        if values.dtype == bool:  # of scores that may lie at the threshold, up to rounding
            continue
        apart = float(np.abs(found[name] - values).max() / max(1.0, float(np.abs(values).max())))
        if not apart <= TOLERANCE:
            raise UserError(
                f"the ONNX file does not give the {name} of the model: they differ by {apart:.1g}, "
                f"and {TOLERANCE:g} is allowed"
            )
