"""Pooled activations together with the token at which each neuron was most active."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.batching import Batch
from neuroscope.extraction.pooling import pooling
from neuroscope.extraction.recorder import Keep
from neuroscope.options import Pool

if TYPE_CHECKING:
    import torch


_MANY = 0.1
"""Share of the pairs of prompt and neuron from which all peaks are sought, which is then faster."""


@dataclass(frozen=True, eq=False)
class PeaksNeeded:
    """Prompts and neurons of a batch whose peaks are needed."""

    low: NDArray[np.float32]
    """(neurons,) pooled values up to which they are."""
    high: NDArray[np.float32]
    """(neurons,) pooled values from which they are."""
    prompts: NDArray[np.bool_]
    """(batch,) prompts for which they are, whatever the values."""

    def flags(self, pooled: "torch.Tensor") -> "torch.Tensor":
        """Return where the peak is needed, (batch, neurons), given the pooled values."""
        import torch

        low, high, prompts = (
            torch.from_numpy(array).to(pooled.device)
            for array in (self.low, self.high, self.prompts)
        )
        return (pooled <= low) | (pooled >= high) | prompts[:, None]


def pooled_peaks(pool: Pool, batch: Batch, needed: PeaksNeeded | None = None) -> Keep:
    """Return a function that pools a site's tensor and finds the peaks of prompts and neurons.

    It takes a (batch, tokens, neurons) tensor and returns two: the pooled values, (batch, neurons),
    float32, and the index of the token in its prompt, special tokens included, at which the neuron
    has its largest value, (batch, neurons), int32.

    Args:
        pool: way to pool: `mean` or `max`.
        batch: batch of prompts; only tokens that count are read.
        needed: prompts and neurons whose peaks are needed, by default all; others may be -1.
    """
    first = batch.mask.argmax(dim=1)  # tokens of padding before each prompt
    return partial(_pooled_peaks, pooling(pool, batch.kept), ~batch.kept, first, needed)


def _pooled_peaks(
    pooled: Keep,
    hidden: "torch.Tensor",
    first: "torch.Tensor",
    needed: PeaksNeeded | None,
    values: "torch.Tensor",
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Pool the values and find the peaks; `hidden` is true at tokens that do not count."""
    import torch

    means, hidden, first = pooled(values), hidden.to(values.device), first.to(values.device)
    flags = None if needed is None else needed.flags(means)
    if flags is None or flags.float().mean() > _MANY:
        columns = values.masked_fill(hidden.unsqueeze(2), -torch.inf).argmax(dim=1)
        return means, (columns - first[:, None]).to(torch.int32)
    peaks = torch.full(means.shape, -1, dtype=torch.int32, device=means.device)
    rows, neurons = flags.nonzero(as_tuple=True)
    tokens = values[rows, :, neurons].masked_fill(hidden[rows], -torch.inf)  # (pairs, tokens)
    peaks[rows, neurons] = (tokens.argmax(dim=1) - first[rows]).to(torch.int32)
    return means, peaks
