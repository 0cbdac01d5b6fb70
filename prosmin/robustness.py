"""Accuracy under corruption in single numbers (Hendrycks & Dietterich, ICLR 2019, sec. 4), in NumPy.

Cells are types x severities. ``hits`` [T,S,N] says which of N test images a model has right in each cell and ``clean``
[N] which without corruption. ``counts`` [R,N] are resamples as in ``prosmin.metrics``: one value a resample. Every cell
and the reference see the same resampled images, so an interval is that of the paired comparison.
"""

import numpy as np

from prosmin.metrics import Counts


def error(hits: np.ndarray, counts: Counts | None = None) -> np.ndarray:
    """Error rates [...] of hits [...,N]; [R,...] with counts."""
    if counts is None:
        return 1 - hits.mean(axis=-1)
    flat = hits.reshape(-1, hits.shape[-1]).astype(np.float64)
    errors = 1 - counts @ flat.T / counts.sum(axis=1, keepdims=True)
    return errors.reshape(len(counts), *hits.shape[:-1])


def mce_unnormalised(hits: np.ndarray, counts: Counts | None = None) -> "float | np.ndarray":
    """Mean error over all types and severities, in [0, 1]."""
    return error(hits, counts).mean(axis=(-2, -1))


def mce(hits: np.ndarray, reference: np.ndarray, counts: Counts | None = None) -> "float | np.ndarray":
    """Mean corruption error as a ratio: the mean over types of sum_s error / sum_s error of the reference.

    reference: hits [T,S,N] of the model compared with, on the same images, which therefore has 1 itself (the paper
    gives per cent, 100). NaN where the reference makes no error in a type.
    """
    return _ratios(error(hits, counts).sum(axis=-1), error(reference, counts).sum(axis=-1))


def relative_mce(
    hits: np.ndarray,
    clean: np.ndarray,
    reference: np.ndarray,
    reference_clean: np.ndarray,
    counts: Counts | None = None,
) -> "float | np.ndarray":
    """The same for the error that corruption adds: mean over types of sum_s (error - clean) / the reference's.

    NaN where a type does not add to the error of the reference: the ratio then compares nothing.
    """
    added = [
        (error(cells, counts) - error(whole, counts)[..., None, None]).sum(axis=-1)
        for cells, whole in ((hits, clean), (reference, reference_clean))
    ]
    return _ratios(*added)


def _ratios(own: np.ndarray, reference: np.ndarray) -> "float | np.ndarray":
    """Mean over the last axis of own / reference. Sums of a few error rates: below 1e-9 is none but for rounding."""
    defined = reference > 1e-9
    return np.where(defined, own / np.where(defined, reference, 1), np.nan).mean(axis=-1)
