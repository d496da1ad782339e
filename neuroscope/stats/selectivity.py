"""Selectivity of neurons for a group of prompts: AUROC of the group against the others."""

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.moments import Doubles
from neuroscope.stats.similarity import Array


def auroc(values: Array, inside: NDArray[np.bool_]) -> Doubles:
    """Return the area under the ROC curve of each neuron as a detector of some prompts.

    It is the probability that a neuron is more active at a prompt of the group than at another
    one, ties counting one half: U / (n m), with U the rank statistic of Mann & Whitney (1947,
    Annals of Mathematical Statistics 18), n prompts in the group and m others. 0.5 tells nothing,
    1 means always more active, and 0 always less.

    Args:
        values: (prompts, neurons) activations.
        inside: (prompts,) whether each prompt belongs to the group.

    Returns:
        (neurons,); NaN if there is no prompt in the group, or none outside it.

    Raises:
        ValueError: the shapes do not agree.
    """
    from scipy.stats import rankdata

    if values.ndim != 2 or inside.shape != values.shape[:1]:
        raise ValueError(
            f"values must be (prompts, neurons) and inside (prompts,); their shapes are"
            f" {values.shape} and {inside.shape}"
        )
    members, others = int(inside.sum()), int((~inside).sum())
    if not members or not others:
        return np.full(values.shape[1], np.nan)
    ranks = rankdata(values, axis=0)[inside].sum(axis=0)
    areas: Doubles = (ranks - members * (members + 1) / 2) / (members * others)
    return areas
