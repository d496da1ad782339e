"""Comparison with random groups of words, where the words of the groups mean nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tables import table
from benchmarks.validation.outcome import Outcome, limit, outcome_of
from neuroscope.studies.association.rows import as_large
from neuroscope.studies.association.words import Lexicon, WordTokens, draw_groups

SIZES = ((1, 1, 24), (2, 2, 5), (4, 4, 12), (8, 8, 17), (8, 8, 35))
"""Words of both groups, and control words."""
HEADER = ("words of the groups", "control words", "p < .05", "p < .01")
_RANKS, _DRAWS = 10_000, 999


@dataclass(frozen=True)
class Rejections:
    """How often a contrast of words that mean nothing is called larger than random groups."""

    first: int
    second: int
    controls: int
    at_5: float
    """Share of runs with p < .05."""
    at_1: float
    """Share of runs with p < .01."""


def reject(first: int, second: int, controls: int, runs: int) -> Rejections:
    """Return how often p is small if all words are alike, apart from chance.

    Args:
        first: number of words of the first group.
        second: number of words of the second group.
        controls: number of control words.
        runs: number of runs, each with other words.
    """
    p = np.array([_p(first, second, controls, seed) for seed in range(runs)])
    return Rejections(first, second, controls, float((p < 0.05).mean()), float((p < 0.01).mean()))


def _p(first: int, second: int, controls: int, seed: int) -> float:
    """Return the p-value of one run."""
    rng = np.random.default_rng(seed)
    words = [f"word {number}" for number in range(first + second + controls)]
    ranks = rng.choice(_RANKS, len(words), replace=False).tolist()
    tokens = {
        word: WordTokens(word, (rank,), (word,)) for word, rank in zip(words, ranks, strict=True)
    }
    lexicon = Lexicon((), tokens, {}, ())
    own = words[: first + second]
    groups, others = (own[:first], own[first:]), words[first + second :]
    draws = draw_groups(lexicon, groups, others, seed=seed, draws=_DRAWS)
    nearer = rng.standard_normal(len(words))
    values = nearer[np.concatenate([np.arange(len(own))[None], draws])]
    contrasts = np.abs(values[:, :first].mean(axis=1) - values[:, first:].mean(axis=1))
    return float(as_large(contrasts[1:, None], contrasts[:1])[0])


def measure(runs: int, sizes: Sequence[tuple[int, int, int]] = SIZES) -> Outcome:
    """Return the rates for groups of several sizes."""
    rows = [reject(*size, runs) for size in sizes]
    properties = {
        f"{row.first} and {row.second} words, {row.controls} control words: at most .05, within two"
        " standard errors": row.at_5 <= limit(0.05, runs)
        for row in rows
    }
    cells = [
        [f"{row.first} and {row.second}", str(row.controls), f"{row.at_5:.3f}", f"{row.at_1:.3f}"]
        for row in rows
    ]
    return outcome_of(table(HEADER, cells), properties, f"{runs:,} runs.")
