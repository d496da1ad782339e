"""Histograms and extremes of many neurons at once, computed on several cores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def bins_of(values: Floats, edges: Floats) -> NDArray[np.uint8]:
    """Return the bin of each value: the number of its neuron's edges below it.

    Args:
        values: (prompts, neurons).
        edges: (neurons, bins - 1) interior edges of each neuron's bins, ascending.

    Returns:
        (neurons, prompts).
    """
    import torch

    columns = torch.from_numpy(values).T.contiguous()
    bins = torch.searchsorted(torch.from_numpy(edges), columns, out_int32=True)
    result: NDArray[np.uint8] = bins.to(torch.uint8).numpy()
    return result


def counts_of(bins: NDArray[np.uint8], groups: NDArray[np.bool_], count: int) -> NDArray[np.uint32]:
    """Return how many prompts of each group are in each bin.

    Args:
        bins: (neurons, prompts) bin of each value.
        groups: (prompts, groups) whether each prompt belongs to a group.
        count: number of bins.

    Returns:
        (groups, neurons, bins).
    """
    neurons = len(bins)
    cells = bins + count * np.arange(neurons)[:, None]
    totals = [
        np.bincount(cells[:, members].ravel(), minlength=neurons * count)
        if members.any()
        else np.zeros(neurons * count, dtype=np.int64)
        for members in groups.T
    ]
    return np.array(totals, dtype=np.uint32).reshape(-1, neurons, count)


@dataclass(frozen=True, eq=False)
class Extremes:
    """Prompts at which each neuron is most active, the strongest first; of equal ones, any.

    Extremes of different prompts can be merged.
    """

    values: Floats
    """(rank, neurons)."""
    indices: NDArray[np.int32]
    """(rank, neurons) index of the prompt."""
    peaks: NDArray[np.int32]
    """(rank, neurons) index of the token at which the neuron peaks."""

    @classmethod
    def of(
        cls,
        values: Floats,
        indices: NDArray[np.int64],
        peaks: NDArray[np.int32],
        count: int,
    ) -> "Extremes":
        """Return the extremes of some prompts.

        Args:
            values, peaks: (prompts, neurons).
            indices: (prompts,) index of each prompt.
            count: number of prompts per neuron; fewer if there are fewer.
        """
        every = np.broadcast_to(indices.astype(np.int32)[:, None], values.shape)
        return _kept(values, every, peaks, count)

    def merge(self, other: "Extremes", count: int) -> "Extremes":
        """Return the extremes of both sets of prompts together."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in vars(self))
        values, indices, peaks = (np.concatenate(pair) for pair in pairs)
        return _kept(values, indices, peaks, count)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Extremes":
        """Return the extremes with some fields."""
        return cls(arrays["values"], arrays["indices"], arrays["peaks"])


def _kept(
    values: Floats,
    indices: NDArray[np.int32],
    peaks: NDArray[np.int32],
    count: int,
) -> Extremes:
    """Return the `count` largest values of each neuron, in order."""
    import torch

    columns = torch.from_numpy(values).T.contiguous()
    found = columns.topk(min(count, len(values)), dim=1)
    rows = found.indices.T.numpy()
    return Extremes(
        found.values.T.contiguous().numpy(),
        np.take_along_axis(indices, rows, axis=0),
        np.take_along_axis(peaks, rows, axis=0),
    )
