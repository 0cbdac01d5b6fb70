"""Last-layer Laplace: a Gaussian posterior over the weights of the linear probe.

Around the fitted weights the posterior is a Gaussian whose precision is the Hessian of the NLL of
all samples plus that of a Gaussian prior (MacKay 1992; Kristiadi et al., ICML 2020; Daxberger et
al., NeurIPS 2021). With inputs x, the standardised features and a 1 for the bias, the Hessian is
the sum of ``x x' (x) (diag p - p p')``. It is approximated by N times the Kronecker product of the
means of both factors (Ritter et al., ICLR 2018), so that F^2 + C^2 numbers hold what would be
(C F)^2. The features are those that the probe was fitted to; nothing is fitted anew.

The predicted probabilities are closed too: the probit approximation of MacKay divides the logit of
a class by ``sqrt(1 + pi / 8 v)`` with its variance v (Lu et al. 2020; Daxberger et al. 2021,
app. B.4). Softmax does not see the mean of the logits of an image, so it counts neither in the
logits nor in their variance.

Letters in shapes: N samples, F features, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prosmin.common.compute.backend import NUMPY, chunks, rows_at_once
from prosmin.evaluation.label_subsets import Labelled
from prosmin.evaluation.linear_probe import Probe
from prosmin.metrics.classification import softmax


@dataclass(frozen=True)
class Posterior:
    """The two factors of the Hessian by their eigenvectors.

    inputs: eigenvectors of the mean of ``x x'`` in columns, float64 [F + 1, F + 1].
    energy: its eigenvalues, [F + 1], at least 0.
    outputs: eigenvectors of the mean of ``diag p - p p'`` in columns, without that of the mean of
        the logits, float64 [C, C - 1].
    curvature: their eigenvalues, [C - 1], at least 0.
    count: N.
    """

    inputs: np.ndarray
    energy: np.ndarray
    outputs: np.ndarray
    curvature: np.ndarray
    count: int

    @classmethod
    def fit(cls, probe: Probe, parts: Sequence[Labelled]) -> "Posterior":
        """Sum both factors over the samples of all parts, which the probe was fitted to."""
        count = sum(len(labels) for _, labels in parts)
        classes, size = probe.weight.shape
        moment, hessian = np.zeros((size + 1, size + 1)), np.zeros((classes, classes))

        def factors(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            inputs, p = standardised(probe, features), softmax(probe.logits(features))
            return inputs.T @ inputs, np.diag(p.sum(axis=0)) - p.T @ p

        for features, _ in parts:
            blocks = chunks(len(features), rows_at_once(size, classes))
            for of_inputs, of_outputs in NUMPY.map(factors, (features[rows] for rows in blocks)):
                moment += of_inputs
                hessian += of_outputs
        energy, inputs = np.linalg.eigh(moment / count)
        # Rows and columns of the second factor sum to 0. A number that is larger than all its
        # eigenvalues, for the mean of the logits, puts this direction last.
        mean = np.full((classes, classes), 1 / classes)
        curvature, outputs = np.linalg.eigh(hessian / count + 2 * mean)
        return cls(
            inputs, np.maximum(energy, 0), outputs[:, :-1], np.maximum(curvature[:-1], 0), count
        )

    def squares(self, probe: Probe, features: np.ndarray) -> np.ndarray:
        """Squared inputs along the eigenvectors, [n, F + 1], of features [n, F]."""
        squares: np.ndarray = np.square(standardised(probe, features) @ self.inputs)
        return squares

    def variances(self, squares: np.ndarray, precision: float) -> np.ndarray:
        """Variance of the centred logits, [n, C].

        squares: of ``squares``. precision: of the prior, above 0.
        """
        spread = 1 / (self.count * np.outer(self.energy, self.curvature) + precision)
        variances: np.ndarray = squares @ spread @ np.square(self.outputs).T
        return variances


def standardised(probe: Probe, features: np.ndarray) -> np.ndarray:
    """Inputs of the weights and of the bias, float64 [N, F + 1], of features [N, F]."""
    inputs = np.ones((len(features), len(probe.mean) + 1))
    np.subtract(features, probe.mean, out=inputs[:, :-1])
    inputs[:, :-1] /= probe.std
    return inputs


def moderate(logits: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Logits of the predicted probabilities, [n, C], by the probit approximation.

    logits: [n, C]. variances: of the centred logits, [n, C].
    """
    centred = logits - logits.mean(axis=1, keepdims=True)
    moderated: np.ndarray = centred / np.sqrt(1 + np.pi / 8 * variances)
    return moderated
