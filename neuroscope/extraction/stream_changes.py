"""Change of the residual stream from a base to a candidate, by position and group of prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.batching import Batch
from neuroscope.sites import Site
from neuroscope.stats.moments import Doubles

if TYPE_CHECKING:
    import torch

_SINGLE = 4
"""Number of first positions that are a bucket of their own; later buckets double in width."""
_LEAST_SPREAD = 1e-6
"""Share of the mean square below which the spread, a difference of sums, has lost its digits."""


def position_buckets(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bucket of each position: 0, 1, 2, 3, then 4-7, 8-15, 16-31 and so on.

    >>> position_buckets(np.array([0, 3, 4, 7, 8, 100]))
    array([0, 3, 4, 4, 5, 8])
    """
    bits = np.frexp(positions.astype(np.float64))[1]  # number of binary digits
    return np.where(positions < _SINGLE, positions, bits + _SINGLE - 3).astype(np.int64)


def bucket_name(bucket: int) -> str:
    """Return the positions of a bucket.

    >>> [bucket_name(bucket) for bucket in (3, 4, 5)]
    ['3', '4-7', '8-15']
    """
    first = 2 ** (bucket - _SINGLE + 2)
    return str(bucket) if bucket < _SINGLE else f"{first}-{2 * first - 1}"


@dataclass(frozen=True, eq=False)
class StreamSums:
    """Sums over the neurons of a batch's tokens at one site, on the device of the model."""

    squares: "torch.Tensor"
    """(counted tokens,) squared differences of candidate and base."""
    norms: "torch.Tensor"
    """(counted tokens,) squared activations of the base."""
    totals: "torch.Tensor"
    """(buckets, neurons) sums of the base's activations."""


class StreamChange:
    """Change of the residual stream, added up batch by batch.

    Each site of a batch is reduced inside the pass of the candidate, and added after the pass.

    Args:
        sites: sites that are compared, whose neurons correspond in both models.
        groups: (prompts,) number of the group of each prompt.
        count: number of groups.
        longest: largest number of tokens of a prompt.
    """

    def __init__(
        self, sites: Sequence[Site], groups: NDArray[np.int64], count: int, longest: int
    ) -> None:
        self.sites = tuple(sites)
        self._groups = groups
        self._shape = count, int(position_buckets(np.array([longest - 1]))[0]) + 1
        self._tokens: Doubles = np.zeros(self._shape)
        self._squares: dict[Site, Doubles] = {}
        self._norms: dict[Site, Doubles] = {}
        self._totals: dict[Site, Doubles] = {}

    @property
    def tokens(self) -> NDArray[np.int64]:
        """(groups + 1, buckets) number of content tokens; the last row is that of all groups."""
        return _with_all(self._tokens).astype(np.int64)

    @property
    def buckets(self) -> tuple[str, ...]:
        """Positions of each bucket, such as `4-7`."""
        return tuple(map(bucket_name, range(self._shape[1])))

    def reduce(self, batch: Batch, base: "torch.Tensor", candidate: "torch.Tensor") -> StreamSums:
        """Return the sums of a batch at one site, without adding them.

        Args:
            batch: the batch.
            base: (batch, tokens, neurons) activations of the base.
            candidate: activations of the candidate.
        """
        import torch

        own = base[batch.kept.to(base.device)].float()
        other = candidate[batch.kept.to(candidate.device)].float().to(own.device)
        buckets = torch.from_numpy(self._buckets(batch)).to(own.device)
        members = torch.nn.functional.one_hot(buckets, self._shape[1]).to(own.dtype)
        return StreamSums(
            squares=(other - own).square().sum(dim=1),
            norms=own.square().sum(dim=1),
            totals=members.T @ own,
        )

    def add(self, batch: Batch, sums: Mapping[Site, StreamSums]) -> None:
        """Add the sums of a batch at all sites."""
        buckets = self._buckets(batch)
        cells = self._groups[batch.token_owners] * self._shape[1] + buckets
        self._tokens += self._by_cell(cells)
        for site, values in sums.items():
            _add(self._squares, site, self._by_cell(cells, _doubles(values.squares)))
            norms = np.bincount(buckets, _doubles(values.norms), self._shape[1])
            _add(self._norms, site, norms.astype(np.float64))
            _add(self._totals, site, _doubles(values.totals))

    def relative(self) -> Doubles:
        """Return the change in units of the spread of the base, (sites, groups + 1, buckets).

        It is sqrt(mean |y - x|^2 / mean |x - m|^2), with x and y the residual streams of base and
        candidate at a token, and m the mean of x over all content tokens. The upper mean is over
        the tokens of a group in a bucket, and the lower one over those of all groups in it. The
        last row is that of all groups. NaN without tokens.
        """
        tokens = self.tokens
        with np.errstate(invalid="ignore", divide="ignore"):
            changes = [
                np.sqrt(_with_all(self._squares[site]) / tokens / self._spread(site))
                for site in self.sites
            ]
        return np.stack(changes)

    def _spread(self, site: Site) -> Doubles:
        """Return the mean of |x - m|^2 over the tokens of each bucket, (buckets,); NaN if it is 0.

        Nothing can be measured in units of a spread of 0, as of prompts that begin alike.
        """
        counts, totals = self.tokens[-1], self._totals[site]
        mean = totals.sum(axis=0) / counts.sum()
        sums: Doubles = self._norms[site] - 2 * totals @ mean + counts * (mean @ mean)
        with np.errstate(invalid="ignore"):
            sums[sums <= _LEAST_SPREAD * self._norms[site]] = np.nan
            spread: Doubles = sums / counts
        return spread

    def _by_cell(self, cells: NDArray[np.int64], weights: Doubles | None = None) -> Doubles:
        """Return sums over tokens, or their number, by group and bucket."""
        sums = np.bincount(cells, weights, self._shape[0] * self._shape[1])
        return sums.reshape(self._shape).astype(np.float64)

    def _buckets(self, batch: Batch) -> NDArray[np.int64]:
        """Return the bucket of each counted token of a batch."""
        positions = (batch.mask.cumsum(dim=1) - 1)[batch.kept].cpu().numpy()
        return position_buckets(positions)


def _add(sums: dict[Site, Doubles], site: Site, values: Doubles) -> None:
    sums[site] = sums[site] + values if site in sums else values


def _doubles(values: "torch.Tensor") -> Doubles:
    doubles: Doubles = values.cpu().numpy().astype(np.float64)
    return doubles


def _with_all(values: Doubles) -> Doubles:
    """Return values by group, (groups, ...), followed by their sum over all groups."""
    return np.concatenate([values, values.sum(axis=0, keepdims=True)])
