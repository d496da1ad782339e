"""Geometry of activations: effective rank, curvature, mean cosines and outlier neurons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from neuroscope.stats.moments import Doubles
from neuroscope.stats.similarity import Array

OUTLIER_SDS = 3.0
"""Number of standard deviations above the mean beyond which a neuron is an outlier."""


def effective_rank(tokens: Array) -> float:
    """Return the effective number of directions of a prompt's tokens, from 1 to their rank.

    It is tr(K)^2 / tr(K^2), where K is the Gram matrix of the tokens as they are, neither centred
    nor scaled: the participation ratio of the eigenvalues of K, and the exponential of the
    `matrix_entropy`. k orthogonal tokens of equal norm give k.

    Args:
        tokens: (tokens, neurons).

    Returns:
        NaN if there are no tokens or all are zero.
    """
    tokens = _matrix(tokens)
    gram = tokens @ tokens.T if tokens.shape[0] < tokens.shape[1] else tokens.T @ tokens
    squares = float(np.square(gram).sum())
    return float(np.trace(gram)) ** 2 / squares if squares else math.nan


def matrix_entropy(tokens: Array) -> float:
    """Return the matrix-based entropy of order 2 of a prompt's tokens, in nats.

    It is log(effective_rank(tokens)), from 0 to the logarithm of the rank (Giraldo et al. 2015,
    IEEE Trans. Inf. Theory 61, where it is in bits). Skean et al. (2025, arXiv:2502.02013) report
    entropies of this family per layer as "prompt entropy"; the values depend on the order and on
    whether tokens are centred or scaled first, so compare only values computed alike.

    Args:
        tokens: (tokens, neurons).

    Returns:
        NaN if there are no tokens or all are zero.
    """
    return math.log(effective_rank(tokens))


def curvature(tokens: Array) -> float:
    """Return the mean angle between successive steps from token to token, in degrees.

    A step is the difference between two neighbouring tokens. A straight line gives 0, a right
    angle at every token 90, and going back and forth 180 (Hosseini & Fedorenko 2023,
    arXiv:2311.04930).

    Args:
        tokens: (tokens, neurons), in the order of the prompt.

    Returns:
        NaN if there are fewer than 3 tokens or two neighbours are equal.
    """
    steps = np.diff(_matrix(tokens), axis=0)
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    if len(steps) < 2 or not lengths.all():
        return math.nan
    directions = steps / lengths
    apart = np.linalg.norm(directions[1:] - directions[:-1], axis=1)
    together = np.linalg.norm(directions[1:] + directions[:-1], axis=1)
    angles = 2 * np.arctan2(apart, together)  # accurate near 0 and 180, unlike arccos
    return math.degrees(float(angles.mean()))


@dataclass(frozen=True)
class UnitSum:
    """Number and sum of vectors scaled to length 1, from which `MeanCosine` is computed."""

    count: int
    """Number of vectors that are not zero."""
    total: Doubles
    """(neurons,) sum of the unit vectors."""

    @classmethod
    def of(cls, vectors: Array) -> "UnitSum":
        """Return the sum of vectors, (vectors, neurons), each divided by its norm.

        A vector of zeros has no direction and is not counted.
        """
        vectors = _matrix(vectors)
        norms = np.linalg.norm(vectors, axis=1)
        directed = norms > 0
        units = vectors[directed] / norms[directed, None]
        return cls(len(units), units.sum(axis=0))

    def merge(self, other: "UnitSum") -> "UnitSum":
        """Return the sum of both sets of vectors."""
        return UnitSum(self.count + other.count, self.total + other.total)


@dataclass(frozen=True)
class MeanCosine:
    """Mean cosine over pairs of vectors in groups, computed exactly without forming the pairs.

        >>> news = UnitSum.of(np.array([[1.0, 0.0], [2.0, 0.0]]))
        >>> sport = UnitSum.of(np.array([[0.0, 3.0]]))
        >>> cosine = MeanCosine.of([news, sport])
        >>> cosine.within, cosine.between
        (1.0, 0.0)

    Over all ordered pairs of n vectors, pairs of a vector with itself included, the cosines add up
    to |S|^2, where S is the sum of the unit vectors. With S_g and n_g the sum and the number of the
    unit vectors of group g, the means are therefore

        overall: (|S|^2 - n) / (n^2 - n)
        within:  (sum_g |S_g|^2 - n) / (sum_g n_g^2 - n)
        between: (|S|^2 - sum_g |S_g|^2) / (n^2 - sum_g n_g^2)

    and NaN if there is no such pair. With the tokens of each prompt as a group, `between` is the
    mean cosine of tokens of different prompts, the anisotropy of Ethayarajh (2019,
    arXiv:1909.00512). With the prompts of each label as a group, `within` and `between` compare
    prompts of the same and of different labels.
    """

    vectors: UnitSum
    """All vectors."""
    square_counts: int
    """Sum of n_g^2 over the groups."""
    square_norms: float
    """Sum of |S_g|^2 over the groups."""

    @classmethod
    def of(cls, groups: Sequence[UnitSum]) -> "MeanCosine":
        """Return the sums over groups.

        Args:
            groups: sum of all unit vectors of each group.

        Raises:
            ValueError: there is no group.
        """
        if not groups:
            raise ValueError("a mean cosine needs at least one group")
        return cls(
            reduce(UnitSum.merge, groups),
            sum(group.count**2 for group in groups),
            sum(float(group.total @ group.total) for group in groups),
        )

    def merge(self, other: "MeanCosine") -> "MeanCosine":
        """Return the sums over the groups of both; no group may be part of both."""
        return MeanCosine(
            self.vectors.merge(other.vectors),
            self.square_counts + other.square_counts,
            self.square_norms + other.square_norms,
        )

    @property
    def overall(self) -> float:
        """Mean cosine over all pairs of different vectors."""
        n = self.vectors.count
        return _ratio(self._square_norm - n, n**2 - n)

    @property
    def within(self) -> float:
        """Mean cosine over pairs of different vectors of the same group."""
        n = self.vectors.count
        return _ratio(self.square_norms - n, self.square_counts - n)

    @property
    def between(self) -> float:
        """Mean cosine over pairs of vectors of different groups."""
        pairs = self.vectors.count**2 - self.square_counts
        return _ratio(self._square_norm - self.square_norms, pairs)

    @property
    def _square_norm(self) -> float:
        """Squared norm of the sum of all unit vectors, |S|^2."""
        return float(self.vectors.total @ self.vectors.total)


@dataclass(frozen=True)
class Outliers:
    """Neurons of a layer whose activations are much larger than those of its other neurons."""

    neurons: tuple[int, ...]
    """Indices of the outliers."""
    share: float
    """Number of outliers divided by the number of neurons in the layer."""
    energy: float
    """Sum of the outliers' mean squares divided by that of all neurons; 0 if all neurons are 0."""


def outlier_neurons(mean_square: Array) -> Outliers:
    """Return the neurons with a root mean square far above that of the layer's other neurons.

    A neuron is an outlier if its root mean square is more than 3 standard deviations (ddof 1) above
    the mean; mean and standard deviation are those of the root mean squares of the layer's neurons.
    Kovaleva et al. (2021, arXiv:2105.06990) describe such neurons, but identify them by weights of
    layer normalisation, so their neurons need not be the same.

    Args:
        mean_square: (neurons,) mean of the squared activations over tokens or prompts.

    Raises:
        ValueError: there are fewer than 2 neurons; a value is negative, NaN or infinite.
    """
    mean_square = np.asarray(mean_square, dtype=np.float64)
    if mean_square.ndim != 1 or len(mean_square) < 2:
        raise ValueError(f"mean squares must be (neurons,), at least 2; not {mean_square.shape}")
    if not (np.isfinite(mean_square) & (mean_square >= 0)).all():
        raise ValueError("mean squares must be finite and not negative")
    root = np.sqrt(mean_square)
    neurons = np.flatnonzero(root > root.mean() + OUTLIER_SDS * root.std(ddof=1))
    total = float(mean_square.sum())
    return Outliers(
        neurons=tuple(neurons.tolist()),
        share=len(neurons) / len(mean_square),
        energy=float(mean_square[neurons].sum()) / total if total else 0.0,
    )


def _matrix(values: Array) -> Doubles:
    """Return values as float64; raise ValueError unless they are (tokens, neurons)."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"activations must be (tokens, neurons); they are {values.shape}")
    return values


def _ratio(total: float, pairs: int) -> float:
    """Return the mean over pairs, or NaN if there are none."""
    return total / pairs if pairs else math.nan
