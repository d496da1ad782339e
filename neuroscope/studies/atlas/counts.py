"""Counts of an atlas: sums over prompts for every neuron, accumulated part by part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import NonfiniteError, Option
from neuroscope.extraction.batching import Batch
from neuroscope.extraction.counting import Extremes, bins_of, counts_of
from neuroscope.extraction.peaks import PeaksNeeded, pooled_peaks
from neuroscope.extraction.recorder import Keep
from neuroscope.options import Pool
from neuroscope.sites import Site
from neuroscope.stats.group_moments import GroupMoments
from neuroscope.stats.histograms import BINS
from neuroscope.studies.atlas.pilot import Pilot, SitePilot
from neuroscope.studies.atlas.topics import TopicIndex
from neuroscope.tokens import TokenBlock

_BUFFER_BYTES = 96e6
"""Memory for the values of prompts that wait until they are counted together."""
_MOST_ROWS = 4096

Arrays = dict[str, NDArray[Any]]
Unsigned = NDArray[np.unsignedinteger[Any]]


@dataclass(eq=False)
class SiteCounts:
    """Counts of the neurons of one site; counts of different prompts can be merged.

    Groups are all prompts first, then those of each topic. Counts that were stored may have a type
    that holds no more than them; those of a merge have 32 bits.
    """

    counts: Unsigned
    """(2 halves, groups, neurons, bins) number of prompts; the held-out half is the second."""
    residual_counts: Unsigned
    """(groups, neurons, bins) number of held-out prompts, binned by their residuals."""
    moments: tuple[GroupMoments, GroupMoments]
    """Moments of each half, per group."""
    active: NDArray[np.int64]
    """(groups, neurons) number of prompts with a positive value."""
    strongest: Extremes
    """Prompts with the largest values."""
    weakest: Extremes
    """Prompts with the smallest values, which are stored negated."""
    examples: int
    """Number of strongest and of weakest prompts per neuron."""
    sample: Arrays
    """Prompts of the random sample: `index` (prompts,), `values` and `peaks` (prompts, neurons)."""

    @classmethod
    def of(
        cls,
        values: NDArray[np.float32],
        peaks: NDArray[np.int32],
        indices: NDArray[np.int64],
        design: NDArray[np.float64],
        context: "Context",
        pilot: SitePilot,
    ) -> "SiteCounts":
        """Return the counts of some prompts.

        Args:
            values, peaks: (prompts, neurons) pooled values, and index of the peak token.
            indices: (prompts,) index of each prompt among all prompts.
            design: (prompts, columns) of the regression on the covariates.
            context: topics of all prompts, and what is kept of them.
            pilot: edges and coefficients of the site.
        """
        groups, heldout = context.groups[indices], context.topics.heldout[indices]
        bins = bins_of(values, pilot.edges)
        residuals = values[heldout] - (design[heldout] @ pilot.coefficients).astype(np.float32)
        sampled = np.isin(indices, context.sample)
        halves = [counts_of(bins[:, half], groups[half], BINS) for half in (~heldout, heldout)]
        return cls(
            np.stack(halves),
            counts_of(bins_of(residuals, pilot.residual_edges), groups[heldout], BINS),
            (
                GroupMoments.of(values[~heldout], groups[~heldout]),
                GroupMoments.of(values[heldout], groups[heldout]),
            ),
            (groups.T.astype(np.float32) @ (values > 0).astype(np.float32)).astype(np.int64),
            Extremes.of(values, indices, peaks, context.examples),
            Extremes.of(-values, indices, peaks, context.examples),
            context.examples,
            {"index": indices[sampled], "values": values[sampled], "peaks": peaks[sampled]},
        )

    def merge(self, other: "SiteCounts") -> "SiteCounts":
        """Add the counts of other prompts to these, in place; return these."""
        self.counts = _sum(self.counts, other.counts)
        self.residual_counts = _sum(self.residual_counts, other.residual_counts)
        self.moments = (
            self.moments[0].merge(other.moments[0]),
            self.moments[1].merge(other.moments[1]),
        )
        self.active += other.active
        self.strongest = self.strongest.merge(other.strongest, self.examples)
        self.weakest = self.weakest.merge(other.weakest, self.examples)
        self.sample = {
            name: np.concatenate([self.sample[name], other.sample[name]]) for name in self.sample
        }
        return self

    def to_arrays(self) -> Arrays:
        """Return the arrays to store."""
        arrays: Arrays = {
            "counts": _narrowed(self.counts),
            "residual_counts": _narrowed(self.residual_counts),
            "active": self.active,
            "examples": np.array(self.examples),
        }
        for half, moments in enumerate(self.moments):
            arrays |= {
                f"moments.{half}.{name}": getattr(moments, name) for name in ("count", "mean", "m2")
            }
        for name in ("strongest", "weakest"):
            arrays |= {f"{name}.{key}": value for key, value in vars(getattr(self, name)).items()}
        return arrays | {f"sample.{name}": values for name, values in self.sample.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "SiteCounts":
        """Return the counts that `to_arrays` has given."""

        def below(prefix: str) -> Arrays:
            start = f"{prefix}."
            return {
                name.removeprefix(start): values
                for name, values in arrays.items()
                if name.startswith(start)
            }

        first, second = (GroupMoments(**below(f"moments.{half}")) for half in (0, 1))
        return cls(
            arrays["counts"],
            arrays["residual_counts"],
            (first, second),
            arrays["active"],
            Extremes.from_arrays(below("strongest")),
            Extremes.from_arrays(below("weakest")),
            int(arrays["examples"]),
            below("sample"),
        )


def _narrowed(counts: Unsigned) -> Unsigned:
    """Return counts in the smallest type that holds them: a part rarely needs 32 bits."""
    narrow: Unsigned = counts.astype(np.min_scalar_type(counts.max(initial=0)))
    return narrow


def _sum(total: Unsigned, counts: Unsigned) -> Unsigned:
    """Return the sum of counts in 32 bits, in place if `total` has them."""
    out = total if total.dtype == np.uint32 else None
    return np.add(total, counts, out=out, dtype=np.uint32)


@dataclass(frozen=True, eq=False)
class Context:
    """Topics of all prompts, and what an atlas keeps of each neuron."""

    topics: TopicIndex
    examples: int
    """Number of strongest and of weakest prompts."""
    sample: NDArray[np.int64]
    """Indices of the prompts of the random sample."""
    groups: NDArray[np.bool_] = field(init=False)
    """(prompts, groups) membership: all prompts first, then each topic."""

    def __post_init__(self) -> None:
        members = self.topics.members
        everything = np.ones((len(members), 1), dtype=bool)
        object.__setattr__(self, "groups", np.hstack([everything, members]))


@dataclass(frozen=True, eq=False)
class AtlasStatistics:
    """Counts of every neuron that a pass reads."""

    name: str
    """Name of the files, `atlas-` and a digest of the settings."""
    context: Context
    pilot: Pilot
    pool: Pool
    offset: int = 0
    """Index of the first prompt of the extraction among all prompts."""

    def rider(self, ids: Sequence[str], block: TokenBlock, first: int) -> "_Part":
        """Return empty counts for a part."""
        return _Part(self, ids, block, self.offset + first)


class _Part:
    """Counts over one part of the prompts."""

    def __init__(
        self, statistics: AtlasStatistics, ids: Sequence[str], block: TokenBlock, first: int
    ):
        self._statistics, self._ids = statistics, ids
        self._indices = first + np.arange(len(ids))
        self._design = statistics.pilot.design_matrix(
            statistics.context.topics, self._indices, block
        )
        self._sampled = np.isin(self._indices, statistics.context.sample)
        self._waiting: dict[Site, list[tuple[Any, ...]]] = {}
        self._counts: dict[Site, SiteCounts] = {}

    def reduce(self, site: Site, batch: Batch) -> Keep:
        pilot = self._statistics.pilot.sites[site]
        needed = PeaksNeeded(pilot.low, pilot.high, self._sampled[batch.members])
        return pooled_peaks(self._statistics.pool, batch, needed)

    def add(self, site: Site, batch: Batch, reduced: Any) -> None:
        values, peaks = (tensor.cpu().numpy() for tensor in reduced)
        self._check(site, values, batch)
        waiting = self._waiting.setdefault(site, [])
        waiting.append((values, peaks, batch.members))
        if sum(len(members) for *_, members in waiting) >= self._rows:
            self._count(site)

    @property
    def _rows(self) -> int:
        """Number of prompts that wait until they are counted together."""
        neurons = sum(pilot.edges.shape[0] for pilot in self._statistics.pilot.sites.values())
        return int(min(max(_BUFFER_BYTES / (8 * neurons), 64), _MOST_ROWS))

    def _check(self, site: Site, values: NDArray[np.float32], batch: Batch) -> None:
        """Raise NonfiniteError if a value is NaN or infinite."""
        if np.isfinite(values.sum(dtype=np.float64)):
            return
        row = int(np.isfinite(values).all(axis=1).argmin())
        raise NonfiniteError(
            f"NaN or infinity at {site} for prompt '{self._ids[batch.members[row]]}'",
            options=[Option("dtype", "float32", "compute in a format with a larger range")],
            remedy="check the weights of the model",
        )

    def _count(self, site: Site) -> None:
        """Count the waiting prompts of a site."""
        rows = self._waiting.pop(site, [])
        if not rows:
            return
        values, peaks, members = (np.concatenate(column) for column in zip(*rows, strict=True))
        statistics = self._statistics
        counted = SiteCounts.of(
            values,
            peaks,
            self._indices[members],
            self._design[members],
            statistics.context,
            statistics.pilot.sites[site],
        )
        previous = self._counts.get(site)
        self._counts[site] = previous.merge(counted) if previous else counted

    def arrays(self) -> Arrays:
        for site in list(self._waiting):
            self._count(site)
        arrays = {}
        for site in list(self._counts):  # popped, so that only one site is held twice
            counts = self._counts.pop(site).to_arrays()
            arrays.update({f"{site}/{name}": values for name, values in counts.items()})
        return arrays
