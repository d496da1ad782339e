"""Independent activations with one neuron far from 0, compared raw and standardised."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import table
from benchmarks.validation.outcome import Outcome, outcome_of
from neuroscope.stats.moments import Moments
from neuroscope.stats.similarity import Similarity, similarity

POSITIONS, NEURONS, BASELINE = 200, 768, 2000
"""Positions of each set, neurons, and positions of the baseline."""
OFFSET = 50.0
"""Standard deviations by which one neuron is away from 0, as in BERT (Timkey & van Schijndel
2021, arXiv:2109.04404)."""
LEAST_RAW, MOST_STANDARDISED = 0.7, 0.02


def draw(seed: int, *, offset: float = OFFSET) -> Similarity:
    """Return the similarity of two independent sets of activations."""
    rng = np.random.default_rng(seed)
    a, b, baseline = (
        _activations(rng, count, offset) for count in (POSITIONS, POSITIONS, BASELINE)
    )
    return similarity(a, b, Moments.of(baseline))


def _activations(rng: np.random.Generator, positions: int, offset: float) -> NDArray[np.float32]:
    values = rng.standard_normal((positions, NEURONS), dtype=np.float32)
    values[:, 308] += offset
    return values


def measure(draws: int) -> Outcome:
    """Return the similarities with the neuron, and without it."""
    with_it = [draw(seed) for seed in range(draws)]
    return outcome(with_it, [draw(seed, offset=0) for seed in range(draws)])


def outcome(with_it: Sequence[Similarity], without: Sequence[Similarity]) -> Outcome:
    """Return the table, and the properties that do not hold."""
    properties = {
        f"with it, every raw cosine is above {LEAST_RAW}": min(each.cosine for each in with_it)
        > LEAST_RAW,
        f"every standardised cosine is within {MOST_STANDARDISED} of 0": max(
            abs(each.cosine_z) for each in (*with_it, *without)
        )
        < MOST_STANDARDISED,
    }
    header = ("neuron far from 0", "raw cosine", "standardised cosine", "share of three neurons")
    rows = [["yes", *_cells(with_it)], ["no", *_cells(without)]]
    text = (
        f"Ranges over {len(with_it):,} draws of {POSITIONS} positions and {NEURONS} neurons, with a"
        f" baseline of {BASELINE:,} positions."
    )
    return outcome_of(table(header, rows), properties, text)


def _cells(draws: Sequence[Similarity]) -> list[str]:
    """Return the ranges of the measures."""
    columns = [
        [getattr(each, name) for each in draws] for name in ("cosine", "cosine_z", "top3_share")
    ]
    return [f"{min(values):.3f} to {max(values):.3f}" for values in columns]
