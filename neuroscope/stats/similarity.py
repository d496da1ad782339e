"""Similarity of two sets of activations."""

import math
from collections.abc import Set
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.moments import Moments

Array = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """Similarity of the activations of two prompts at corresponding positions.

    `cosine`, `mse` and `top3_share` are computed from raw activations, the others from activations
    that are standardised by a baseline (Timkey & van Schijndel 2021, arXiv:2109.04404). Without
    standardising, one to three neurons can determine a cosine.
    """

    cosine: float
    """Cosine of raw activations, from -1 to 1."""
    mse: float
    """Mean squared difference of raw activations, in their unit squared."""
    cosine_z: float
    """Cosine of standardised activations, from -1 to 1."""
    spearman: float
    """Rank correlation of standardised activations, from -1 to 1."""
    rms_z: float
    """Root mean squared difference of standardised activations, in standard deviations."""
    top3_share: float
    """Share of the three largest contributions to the raw cosine, from 0 to 1."""

    @classmethod
    def missing(cls) -> "Similarity":
        """Return the similarity of no positions: every measure is NaN."""
        return cls(**{field.name: math.nan for field in fields(cls)})


def similarity(a: Array, b: Array, baseline: Moments) -> Similarity:
    """Return the similarity of `a` and `b`, position by position.

    Args:
        a: (positions, neurons) raw activations.
        b: raw activations of the same shape.
        baseline: moments of the same neurons over varied text.

    Returns:
        Measures over all positions and neurons; all are NaN if there is no position.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    if len(a) == 0:
        return Similarity.missing()
    a, b = a.astype(np.float64), b.astype(np.float64)
    z_a, z_b = baseline.standardise(a), baseline.standardise(b)
    return Similarity(
        cosine=cosine(a, b),
        mse=float(np.mean((a - b) ** 2)),
        cosine_z=cosine(z_a, z_b),
        spearman=spearman(z_a, z_b),
        rms_z=float(np.sqrt(np.mean((z_a - z_b) ** 2))),
        top3_share=top3_share(a, b),
    )


def cosine(a: Array, b: Array) -> float:
    """Return the cosine of the angle between two arrays, flattened; NaN if one is all zero."""
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.vdot(a, b) / norms) if norms else math.nan


def spearman(a: Array, b: Array) -> float:
    """Return Spearman's rank correlation of two arrays, flattened; NaN if one is constant."""
    import pandas as pd  # gives the same ranks as scipy and is much faster to import

    ranks_a, ranks_b = (pd.Series(values.ravel()).rank().to_numpy() for values in (a, b))
    return cosine(ranks_a - ranks_a.mean(), ranks_b - ranks_b.mean())


def top3_share(a: Array, b: Array) -> float:
    """Return the share of the three neurons that contribute most to the cosine, from 0 to 1.

    The contribution of neuron j is c_j = sum over positions of a_j b_j / (|a| |b|); all c_j add up
    to the cosine. The share is the sum of the three largest |c_j| divided by the sum of all |c_j|.

    Args:
        a: (positions, neurons) activations.
        b: activations of the same shape.

    Returns:
        NaN if every contribution is 0.
    """
    contributions = np.abs(np.sum(a * b, axis=0))  # (neurons,); the norms cancel
    total = contributions.sum()
    return float(np.sort(contributions)[-3:].sum() / total) if total else math.nan


def jaccard(a: Set[int], b: Set[int]) -> float:
    """Return the Jaccard index of two sets of token ids; NaN if both are empty.

    It is the size of the intersection divided by the size of the union, from 0 to 1.
    """
    union = a | b
    return len(a & b) / len(union) if union else math.nan
