"""Frozen probes: classifiers fitted to one model's activations and tested on those of others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.checks import check_activations
from neuroscope.stats.probes import (
    fit_classifier,
    one_thread,
    split_prompts,
    standardising_classifier,
)
from neuroscope.stats.similarity import Array


@dataclass(frozen=True)
class FrozenAccuracy:
    """Accuracy of a probe on activations of another model than that to which it was fitted."""

    correct: NDArray[np.bool_]
    """(held-out prompts,) whether each label is predicted correctly, in `Split.heldout`'s order."""

    @property
    def accuracy(self) -> float:
        """Share of the held-out prompts whose label is predicted correctly."""
        return float(self.correct.mean())

    @property
    def standard_error(self) -> float:
        """Binomial standard error of the accuracy p over n prompts, sqrt(p (1 - p) / n)."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / len(self.correct)))


def frozen_accuracies(
    base: Array, others: Mapping[str, Array], labels: Sequence[str], *, seed: int = 0
) -> dict[str, FrozenAccuracy]:
    """Fit a probe to base activations and test it, unchanged, on other activations.

    The classifier, its standardisation and the held-out prompts are those of `probe_activations`.
    The probe is fitted to the base activations of the training prompts, and tested on the held-out
    prompts of each of the others. With the base among them, its accuracy is therefore that of
    `probe_activations`. What is fitted beforehand, such as a realignment of the others, must be
    fitted to the training prompts of `split_prompts` only.

    Args:
        base: (prompts, neurons) activations of the base.
        others: activations of the same prompts and number of neurons, by name.
        labels: one label per prompt.
        seed: seed that determines which prompts are held out, as in `probe_activations`.

    Raises:
        ValueError: shapes do not match; a value is NaN or infinite; there are fewer than two
            labels, or fewer than 4 prompts with one of them.
        RuntimeError: the classifier did not converge.
    """
    check_activations(base, "base")
    for name, activations in others.items():
        check_activations(activations, name)
        if activations.shape != base.shape:
            raise ValueError(f"shapes differ: base {base.shape}, {name} {activations.shape}")
    if len(labels) != len(base):
        raise ValueError(f"there are {len(base)} prompts and {len(labels)} labels")
    train, heldout = split_prompts(labels, seed=seed)
    classes, model = np.array(labels), standardising_classifier()
    with one_thread():
        fit_classifier(model, base[train].astype(np.float64), classes[train])
        return {
            name: FrozenAccuracy(
                model.predict(activations[heldout].astype(np.float64)) == classes[heldout]
            )
            for name, activations in others.items()
        }
