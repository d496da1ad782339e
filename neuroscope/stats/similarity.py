"""How alike two sets of activations are."""

import math
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.moments import Moments

Array = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """Measures of one pair in one view; all are NaN where the view has no position.

    `cosine` and `mse` are of the activations as they are; `cosine_z`, `spearman` and `rms_z` of
    the activations standardised by a reference prompt set (Timkey & van Schijndel 2021,
    arXiv:2109.04404), without which one to three dimensions decide a cosine. `top3_share` tells
    how far that is so: the share that the three largest contributions have in the raw cosine.
    """

    cosine: float
    mse: float
    cosine_z: float
    spearman: float
    rms_z: float
    top3_share: float


def similarity(a: Array, b: Array, reference: Moments) -> Similarity:
    """How alike `a` and `b` are, both (positions, neurons), every position against its own.

    Args:
        a: activations in the model's own unit.
        b: likewise, of the same shape.
        reference: of the same neurons.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    if len(a) == 0:
        return Similarity(*(math.nan,) * 6)
    a, b = a.astype(np.float64), b.astype(np.float64)
    z_a, z_b = reference.standardise(a), reference.standardise(b)
    return Similarity(
        cosine=cosine(a, b),
        mse=float(np.mean((a - b) ** 2)),
        cosine_z=cosine(z_a, z_b),
        spearman=spearman(z_a, z_b),
        rms_z=float(np.sqrt(np.mean((z_a - z_b) ** 2))),
        top3_share=top3_share(a, b),
    )


def cosine(a: Array, b: Array) -> float:
    """Cosine of the angle between the two arrays, flattened; NaN where one is zero."""
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.vdot(a, b) / norms) if norms else math.nan


def spearman(a: Array, b: Array) -> float:
    """Spearman's rank correlation of the two arrays, flattened; NaN where one is constant."""
    import pandas as pd  # its ranks are scipy's, at a fraction of the time to import

    ranks_a, ranks_b = (pd.Series(values.ravel()).rank().to_numpy() for values in (a, b))
    return cosine(ranks_a - ranks_a.mean(), ranks_b - ranks_b.mean())


def top3_share(a: Array, b: Array) -> float:
    """Share of the three neurons that contribute most to the cosine, between 0 and 1.

    A neuron's contribution is the sum over positions of a_j b_j / (|a| |b|); contributions add
    up to the cosine. The share is sum of the three largest |contribution| / sum of all.
    """
    contributions = np.abs(np.sum(a * b, axis=0))  # (neurons,), the norms cancel
    total = contributions.sum()
    return float(np.sort(contributions)[-3:].sum() / total) if total else math.nan


def jaccard(a: Set[int], b: Set[int]) -> float:
    """Size of the intersection over size of the union; NaN where both are empty."""
    union = a | b
    return len(a & b) / len(union) if union else math.nan
