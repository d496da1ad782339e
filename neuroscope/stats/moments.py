"""Mean and variance per neuron over any number of tokens, one block at a time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Count, mean and `m2`, the sum of squared deviations, per neuron; the last two are (neurons,).

    Blocks are merged by the pairwise update of Chan, Golub & LeVeque (1979), which does not lose
    digits as a running sum of squares does.
    """

    count: int
    mean: Doubles
    m2: Doubles

    @classmethod
    def of(cls, block: NDArray[np.floating]) -> "Moments":
        """Moments of one block, (tokens, neurons)."""
        block = block.astype(np.float64)
        mean = block.mean(axis=0) if len(block) else np.zeros(block.shape[1])
        return cls(len(block), mean, ((block - mean) ** 2).sum(axis=0))

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both sets of tokens together."""
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
        """(neurons,) standard deviation over tokens, in the activation's unit (ddof 1)."""
        return np.sqrt(self.m2 / max(self.count - 1, 1))

    def standardise(self, values: NDArray[np.floating]) -> Doubles:
        """(value - mean) / sd per neuron; 0 for a neuron that never varied in these tokens."""
        sd = self.sd
        varies = sd > 0
        return np.where(varies, (values - self.mean) / np.where(varies, sd, 1.0), 0.0)
