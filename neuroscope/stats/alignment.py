"""Realignments of the activations of one model to those of another, fitted without labels."""

from dataclasses import dataclass

import numpy as np

from neuroscope.stats.checks import check_activations
from neuroscope.stats.moments import Doubles, Moments
from neuroscope.stats.similarity import Array


@dataclass(frozen=True)
class MeanSd:
    """Shift and scale of each neuron to the mean and standard deviation of a target.

    >>> realignment = MeanSd.fit(candidate[train], base[train])
    >>> realigned = realignment.apply(candidate[heldout])
    """

    source: Moments
    """Moments of the activations to be realigned."""
    target: Moments

    @classmethod
    def fit(cls, source: Array, target: Array) -> "MeanSd":
        """Return the realignment of `source` to `target`.

        Args:
            source: (prompts, neurons) activations of the candidate.
            target: (prompts, neurons) activations of the base. The prompts may be others.

        Raises:
            ValueError: the numbers of neurons differ; a value is NaN or infinite.
        """
        _check_widths(source, target)
        return cls(Moments.of(source), Moments.of(target))

    def apply(self, values: Array) -> Doubles:
        """Return (value - source mean) / source sd * target sd + target mean, (prompts, neurons).

        A neuron that is constant in the source becomes the mean of the target.

        Raises:
            ValueError: `values` are not (prompts, neurons) of the source's number of neurons.
        """
        _check_width(values, len(self.source.mean))
        return self.source.standardise(values) * self.target.sd + self.target.mean


@dataclass(frozen=True)
class Procrustes:
    """Rotation or reflection of centred activations to those of a target, with means restored.

    >>> realignment = Procrustes.fit(candidate[train], base[train])
    >>> realigned = realignment.apply(candidate[heldout])
    """

    source_mean: Doubles
    """(neurons,)"""
    target_mean: Doubles
    """(neurons,)"""
    rotation: Doubles
    """(neurons, neurons) orthogonal matrix."""

    @classmethod
    def fit(cls, source: Array, target: Array) -> "Procrustes":
        """Return the orthogonal realignment of `source` to `target`.

        It minimises the Frobenius norm of `source @ rotation - target`, both centred (Schönemann
        1966, Psychometrika 31). With fewer prompts than neurons, directions that the prompts do
        not span are mapped arbitrarily. Time grows with the third power of the number of neurons.

        Args:
            source: (prompts, neurons) activations of the candidate.
            target: activations of the base: the same prompts and number of neurons.

        Raises:
            ValueError: shapes differ; a value is NaN or infinite.
        """
        from scipy.linalg import orthogonal_procrustes

        _check_widths(source, target)
        if len(source) != len(target):
            raise ValueError(f"numbers of prompts differ: {len(source)} and {len(target)}")
        means = Moments.of(source).mean, Moments.of(target).mean
        rotation, _ = orthogonal_procrustes(source - means[0], target - means[1])
        return cls(*means, np.asarray(rotation, dtype=np.float64))

    def apply(self, values: Array) -> Doubles:
        """Return (value - source mean) @ rotation + target mean, (prompts, neurons).

        Raises:
            ValueError: `values` are not (prompts, neurons) of the source's number of neurons.
        """
        _check_width(values, len(self.source_mean))
        return (values - self.source_mean) @ self.rotation + self.target_mean


def _check_widths(source: Array, target: Array) -> None:
    """Raise ValueError unless both are finite and have the same number of neurons."""
    check_activations(source, "source")
    check_activations(target, "target")
    _check_width(source, target.shape[1])


def _check_width(values: Array, neurons: int) -> None:
    """Raise ValueError unless values are (prompts, neurons)."""
    if values.ndim != 2 or values.shape[1] != neurons:
        raise ValueError(f"activations must be (prompts, {neurons}); their shape is {values.shape}")
