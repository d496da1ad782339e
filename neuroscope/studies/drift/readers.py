"""Readers of the old activations: does what was built on the base still work on the candidate?"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.activations import Floats
from neuroscope.stats.alignment import MeanSd, Procrustes
from neuroscope.stats.frozen_probes import FrozenAccuracy, frozen_accuracies
from neuroscope.stats.neighbours import recall, varies
from neuroscope.stats.probes import HELD_OUT, LEAST_PER_CLASS, split_prompts
from neuroscope.stats.similarity import Array

Indices = NDArray[np.intp]

NEAREST = 10
"""Number of entries of the index that a query finds."""
MEAN_SD, PROCRUSTES = "mean and sd", "Procrustes"
"""Realignments without labels."""


@dataclass(frozen=True)
class Reader:
    """Quality of one reader of activations that was made for the base."""

    activations: str
    """Whose activations it reads: `base`, `candidate`, or the candidate's after a realignment."""
    accuracy: float
    """Share of the held-out prompts whose label a probe of the base predicts correctly; NaN if
    there are no labels."""
    accuracy_error: float
    """Standard error of the accuracy."""
    tested: int
    """Number of held-out prompts; 0 if there are no labels."""
    recall: float
    """Share of the nearest entries of an index of the base that a query finds, as the base does."""


def readers(
    base: Floats, candidate: Floats, labels: Sequence[str | None], *, seed: int
) -> list[Reader]:
    """Return how well readers that were made for the base work on the candidate.

    A probe is fitted, and an index made, from the base's activations of some prompts; the others
    are predicted and looked up. A realignment is fitted to the former, without labels.

    Args:
        base: (prompts, neurons) activations of the base.
        candidate: activations of the candidate, of the same shape.
        labels: label of each prompt; those without a label, or with a rare one, are not probed for.
        seed: seed of the splits.

    Returns:
        Readers of the base, of the candidate, and of each realignment that can be fitted: that of
        Procrustes needs more prompts than neurons. None if no neuron varies in one of the models.
    """
    if not (varies(base) and varies(candidate)):
        return []
    recalls = _recalls(base, candidate, seed)
    accuracies = _accuracies(base, candidate, labels, seed)
    return [
        Reader(
            name,
            accuracies[name].accuracy if name in accuracies else np.nan,
            accuracies[name].standard_error if name in accuracies else np.nan,
            len(accuracies[name].correct) if name in accuracies else 0,
            share,
        )
        for name, share in recalls.items()
    ]


def _recalls(base: Floats, candidate: Floats, seed: int) -> dict[str, float]:
    """Return the recall of queries in an index of three quarters of the prompts, by reader."""
    order = np.random.default_rng(seed).permutation(len(base))
    queries, index = np.split(order, [round(HELD_OUT * len(base))])
    k = min(NEAREST, len(index) - 1)
    return {
        name: recall(base[index], values[queries], base[queries], k)
        for name, values in _read(base, candidate, index)
    }


def _accuracies(
    base: Floats, candidate: Floats, labels: Sequence[str | None], seed: int
) -> dict[str, FrozenAccuracy]:
    """Return the accuracy of the base's probe by reader; empty if there is none."""
    counts = Counter(labels)
    frequent = [label for label in counts if label and counts[label] >= LEAST_PER_CLASS]
    rows = [row for row, label in enumerate(labels) if label in frequent]
    if len(frequent) < 2:
        return {}
    base, candidate, probed = base[rows], candidate[rows], [str(labels[row]) for row in rows]
    train = split_prompts(probed, seed=seed).train
    with suppress(RuntimeError):  # the probe did not converge
        return frozen_accuracies(base, dict(_read(base, candidate, train)), probed, seed=seed)
    return {}


def _read(base: Floats, candidate: Floats, train: Indices) -> Iterator[tuple[str, Array]]:
    """Yield the activations that are read, by name; realignments are fitted to some prompts."""
    yield "base", base
    yield "candidate", candidate
    source, target = candidate[train], base[train]
    yield f"candidate, {MEAN_SD}", MeanSd.fit(source, target).apply(candidate)
    if len(source) > base.shape[1]:
        yield f"candidate, {PROCRUSTES}", Procrustes.fit(source, target).apply(candidate)
