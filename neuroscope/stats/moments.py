"""Mean and standard deviation of every neuron over any number of tokens, block by block."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Number of tokens and, per neuron, the mean and the sum of squared deviations.

    Merging uses the pairwise update of Chan, Golub & LeVeque (1979). Unlike a running sum of
    squares, it stays accurate for neurons whose mean is much larger than their spread.
    """

    count: int
    """Number of tokens."""
    mean: Doubles
    """(neurons,) mean in the unit of the activations."""
    m2: Doubles
    """(neurons,) sum of the squared deviations from the mean."""

    @classmethod
    def of(cls, block: NDArray[np.floating]) -> "Moments":
        """Return the moments of one block, (tokens, neurons)."""
        block = block.astype(np.float64)
        mean = block.mean(axis=0) if len(block) else np.zeros(block.shape[1])
        return cls(len(block), mean, ((block - mean) ** 2).sum(axis=0))

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of tokens together."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * other.count / count,
            self.m2 + other.m2 + delta**2 * self.count * other.count / count,
        )

    @property
    def sd(self) -> Doubles:
        """(neurons,) standard deviation over tokens (ddof 1); 0 for a single token."""
        return np.sqrt(self.m2 / max(self.count - 1, 1))

    def standardise(self, values: NDArray[np.floating]) -> Doubles:
        """Return (value - mean) / sd for each neuron, or 0 for a neuron that never varied.

        Args:
            values: (…, neurons) activations.
        """
        sd = self.sd
        varies = sd > 0
        return np.where(varies, (values - self.mean) / np.where(varies, sd, 1.0), 0.0)
