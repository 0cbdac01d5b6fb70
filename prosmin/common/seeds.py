"""Random numbers for every purpose by itself, and samples that stand for all."""

import numpy as np


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Random numbers of this purpose, independent of those of every other: no setting shifts the draws of another.

    key: whole numbers, as many whenever the purpose is the same.
    """
    # A name holds no 0, so that no other name goes on as this one does with its key.
    return np.random.default_rng([seed, *purpose.encode(), *((0, *key) if key else ())])


def drawn(count: int, limit: int, seed: int, purpose: str) -> np.ndarray:
    """Ascending rows of ``limit`` samples out of ``count``, drawn at random without replacement; all where there are no more.

    Files often lie sorted by class or with the classes in turn, so that neither the first rows nor every n-th one are a
    sample of all.
    """
    if count <= limit:
        return np.arange(count)
    return np.sort(generator(seed, purpose, count).choice(count, limit, replace=False))
