"""Load an exported model, and predict.

Letters in shapes: Q images, C classes, F features, S pixels a side, K neighbours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prosmin.common.errors import UserError
from prosmin.data import cut, picture
from prosmin.data.tensors import decode_tensor
from prosmin.evaluation.embedding import Embedding, describe
from prosmin.evaluation.linear_probe import Probe
from prosmin.metrics import classification, conformal
from prosmin.metrics.uncertainty import entropy
from prosmin.objectives.base import Objective
from prosmin.objectives.doubts import DOUBTS
from prosmin.predicting import bundle
from prosmin.predicting.reference import Reference

BATCH = 256  # images that the networks see at a time

AnyPicture = str | Path | bytes | np.ndarray | Tensor | Image.Image


@dataclass(frozen=True)
class Predictions:
    """What a model says about Q images.

    embedding: features ``[Q, F]`` and label-free scores ``[Q]``.
    classes: names of all classes; None without labels, as are the next two.
    probabilities: calibrated, float64 ``[Q, C]``.
    sets: conformal sets, bool ``[Q, C]``: 90 % of them hold the label.
    scores: OOD scores ``[Q]`` by detector of ``prosmin.evaluation.ood_scores``, high where unusual.
    percentiles: share of held-out ID images with at most this score, in per cent, ``[Q]``.
    unusual: whether the score is above that of 95 % of the held-out ID images, bool ``[Q]``.
    distances, nearest: of the nearest training images, ``[Q, K]``, the nearest first: distances
        between normalised features, and the files or rows of their source.
    """

    embedding: Embedding
    classes: tuple[str, ...] | None
    probabilities: np.ndarray | None
    sets: np.ndarray | None
    scores: Mapping[str, np.ndarray]
    percentiles: np.ndarray
    unusual: np.ndarray
    distances: np.ndarray
    nearest: np.ndarray

    def __len__(self) -> int:
        return len(self.unusual)

    @property
    def labels(self) -> list[str] | None:
        """The most probable class of each image; None without labels."""
        if self.classes is None or self.probabilities is None:
            return None
        return [self.classes[place] for place in self.probabilities.argmax(axis=1)]

    @property
    def uncertainty(self) -> tuple[str, np.ndarray] | None:
        """The name and the values ``[Q]`` of the score that ranks images by uncertainty.

        The entropy of the probabilities; without labels the first label-free score that the model
        has. None where it has none.
        """
        if self.probabilities is not None:
            return "entropy", entropy(self.probabilities)
        free = self.label_free
        order = ("answer_entropy", "width", "log_sigma", *DOUBTS)
        return next(((name, free[name]) for name in order if name in free), None)

    @property
    def label_free(self) -> dict[str, np.ndarray]:
        """Mean predicted log sigma and the doubts ``[Q]`` by name, as far as the model has them."""
        sigma = self.embedding.log_sigma
        return ({} if sigma is None else {"log_sigma": sigma}) | self.embedding.doubts


class Model:
    """An exported model on a device, ready for images."""

    def __init__(
        self,
        facts: bundle.Facts,
        networks: Objective,
        probe: Probe | None,
        reference: Reference,
        device: str,
    ):
        self.facts, self.probe, self.reference = facts, probe, reference
        self.networks = networks.to(device)
        self.device = device

    def predict(self, images: Iterable[AnyPicture] | Tensor, neighbours: int = 5) -> Predictions:
        """Predict for images of any size.

        images: files, encoded bytes, PIL images, or uint8 pixels: ``[H, W]``, ``[H, W, 1 or 3]`` as
            an array, ``[1 or 3, H, W]`` as a tensor; or one tensor ``[Q, 1 or 3, H, W]``.
        neighbours: how many of the nearest training images to name, at most the k of the detector.

        Raises ``UserError`` for anything else, and for an image that cannot be decoded.
        """
        return self.predict_prepared(self.prepare_all(images), neighbours)

    def embed(self, images: Iterable[AnyPicture] | Tensor) -> Embedding:
        """Compute features and label-free scores of images as for ``predict``."""
        return self.embed_prepared(self.prepare_all(images))

    def prepare_all(self, images: Iterable[AnyPicture] | Tensor) -> Tensor:
        """Convert images as for ``predict`` to uint8 ``[Q, channels, S, S]``."""
        prepared = [self.prepare(image) for image in images]
        if not prepared:
            raise UserError("there are no images to predict")
        return torch.stack(prepared)

    def prepare(self, image: AnyPicture) -> Tensor:
        """Convert one image to uint8 ``[channels, S, S]``, as the evaluations do."""
        return self._converted(_pixels(image))

    def prepare_file(self, path: Path) -> Tensor:
        """The same for a file. Raises ``prosmin.data.picture.Unreadable``."""
        return self._converted(decode_tensor(path))

    def _converted(self, pixels: Tensor) -> Tensor:
        settings = self.facts.model
        return cut.convert(pixels[None], settings.frame, settings.channels)[0]

    def embed_prepared(self, images: Tensor) -> Embedding:
        """The embedding of images uint8 ``[Q, channels, S, S]``."""
        return describe(self.networks, images, BATCH)

    def predict_prepared(self, images: Tensor, neighbours: int = 5) -> Predictions:
        """Predict for images uint8 ``[Q, channels, S, S]``."""
        embedding = self.embed_prepared(images)
        probabilities = sets = None
        if self.probe is not None:
            logits = self.probe.logits(embedding.features) / self.probe.temperature
            probabilities = classification.softmax(logits)
            sets = conformal.prediction_sets(probabilities, self.probe.threshold)
        scores, distances, rows = self.reference.detectors.score(embedding.features)
        flagged = scores[self.reference.detector]
        return Predictions(
            embedding,
            self.facts.classes if self.probe is not None else None,
            probabilities,
            sets,
            scores,
            self.reference.percentiles(flagged),
            flagged > self.reference.threshold,
            distances[:, :neighbours],
            self._named(rows[:, :neighbours]),
        )

    def _named(self, rows: np.ndarray) -> np.ndarray:
        """The names of training images by rows of the bank."""
        names = self.facts.images
        return np.array([names[row] for row in rows.ravel()]).reshape(rows.shape)


def load(folder: str | Path, device: str | None = None) -> Model:
    """Load the model in ``folder``, as exported.

    device: of PyTorch; None: a GPU where there is one.

    Raises ``UserError`` where a part is missing, damaged or of another version.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Model(*bundle.read(folder), chosen)


def _pixels(image: AnyPicture) -> Tensor:
    """uint8 [1 or 3, H, W] of an image of any kind that ``Model.predict`` takes."""
    if isinstance(image, str):
        image = Path(image)
    if isinstance(image, Image.Image):
        image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    if isinstance(image, Path | bytes):
        try:
            image = decode_tensor(image)
        except picture.Unreadable as error:
            where = "an image" if isinstance(image, bytes) else str(image)
            raise UserError(f"{where} cannot be read: {error}") from None
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        pixels = torch.from_numpy(np.array(image, order="C"))  # a copy, which may be written to
        image = pixels[None] if image.ndim == 2 else pixels.permute(2, 0, 1)
    shape = tuple(getattr(image, "shape", ()))
    in_range = len(shape) == 3 and shape[0] in (1, 3) and 0 not in shape
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and in_range:
        return image
    kind = getattr(image, "dtype", type(image).__name__)
    raise UserError(
        f"an image is {kind} {list(shape)}; needed: a file, bytes, a PIL "
        "image, or uint8 pixels with 1 or 3 channels, [H, W, channels] as an array or "
        "[channels, H, W] as a tensor"
    )
