"""Word embedding association test of two sets of words with two sets of attributes."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.contrasts import unit_vectors
from neuroscope.stats.moments import Doubles

_RESAMPLES = 999
_LEAST_SPREAD = 1e-12  # standard deviation of differences of cosines, below which they are equal


@dataclass(frozen=True)
class Weat:
    """Effect size of a word embedding association test, and its p-value."""

    d: float
    """Effect size, from -2 to 2; NaN if all words are associated alike."""
    p: float
    """Two-sided p-value over divisions of all words into two sets of the same sizes; NaN if there
    are fewer than two words in a set."""


def weat(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    *,
    per_word: int = 1,
    seed: int = 0,
) -> Weat:
    """Return how much more the words X than the words Y are associated with A rather than B.

    With s(w) = mean over a of cos(w, a) - mean over b of cos(w, b),

        d = (mean of s over X - mean of s over Y) / sd of s over X and Y (ddof 1)

    (Caliskan et al. 2017, doi:10.1126/science.aal4230). With vectors of sentences instead of words
    it is SEAT (May et al. 2019, arXiv:1903.10561). The published p-value is one-sided.

    Args:
        x: (words, neurons) vectors of the first set of words.
        y: vectors of the second set.
        a: (attributes, neurons) vectors of the first set of attributes.
        b: vectors of the second set.
        per_word: number of consecutive vectors of `x` and `y` that belong to one word, such as its
            sentences. The p-value divides words, not sentences: those of one word are alike.
        seed: seed of divisions, if there are too many for all of them.

    Raises:
        ValueError: a set is empty.
    """
    if not all(len(vectors) for vectors in (x, y, a, b)):
        raise ValueError("a set of vectors is empty")
    words, attributes = unit_vectors(np.concatenate([x, y])), [unit_vectors(a), unit_vectors(b)]
    first, second = ((words @ vectors.T).mean(axis=1) for vectors in attributes)
    s = first - second
    sd = float(s.std(ddof=1))
    by_word = s.reshape(-1, per_word).mean(axis=1)
    first_words = len(x) // per_word
    few = min(first_words, len(by_word) - first_words) < 2
    if sd < _LEAST_SPREAD:
        return Weat(math.nan, math.nan if few else 1.0)
    difference = float(s[: len(x)].mean() - s[len(x) :].mean())
    p = math.nan if few else _p(by_word[:first_words], by_word[first_words:], seed)
    return Weat(difference / sd, p)


def _p(x: Doubles, y: Doubles, seed: int) -> float:
    """Return the p-value of a difference of means; d is proportional to it for all divisions."""
    from scipy.stats import permutation_test

    def difference(x: Doubles, y: Doubles, axis: int) -> Doubles:
        means: Doubles = x.mean(axis=axis) - y.mean(axis=axis)
        return means

    tested = permutation_test(
        (x, y),
        difference,
        permutation_type="independent",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=500,
        rng=np.random.default_rng(seed),
    )
    return float(tested.pvalue)
