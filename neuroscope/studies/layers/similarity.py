"""Similarity of layers and of prompts, computed from stored activations part by part."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroscope.activations import Activations, Floats
from neuroscope.sites import Site
from neuroscope.stats.cka import debiased_cka
from neuroscope.stats.geometry import MeanCosine, UnitSum
from neuroscope.stats.moments import Doubles, Moments
from neuroscope.storage.activation_store import read_parts
from neuroscope.storage.manifest import read_manifest

MEMORY = 1e9
"""Maximum bytes of the sums of products that are computed at a time."""
HELD = 2.5e8
"""Maximum bytes of activations that are held in memory."""


@dataclass(frozen=True)
class PromptSimilarity:
    """Mean cosines over pairs of prompts at one site; those by label are NaN without labels."""

    cosine: float
    cosine_same: float
    cosine_other: float
    cosine_z: float
    cosine_z_same: float
    cosine_z_other: float


class StoredParts:
    """Pooled activations that are read several times, part by part.

    >>> for part in StoredParts(stored.folder, sites).read(sites[:1]): ...

    If all activations fit in `HELD` bytes, they are kept in memory, because reading them again
    would take longer than the computation.
    """

    def __init__(self, folder: Path, sites: Sequence[Site]):
        self._folder, self._sites = folder, sites
        parts = read_parts(folder, sites)
        first = next(parts)
        bytes_per_prompt = sum(first[site].nbytes for site in sites) / len(first.prompts)
        fits = bytes_per_prompt * read_manifest(folder).prompts <= HELD
        self._held = [first, *parts] if fits else None

    def read(self, sites: Sequence[Site]) -> Iterable[Activations[Floats]]:
        """Return the parts with the values of some sites, for one pass."""
        return read_parts(self._folder, sites) if self._held is None else self._held


SiteMoments = Mapping[Site, Moments]
"""Site -> moments of its neurons over the prompts."""


def site_moments(parts: StoredParts, sites: Sequence[Site]) -> SiteMoments:
    """Return the moments of every neuron of the sites, from one pass over the parts."""
    moments: dict[Site, Moments] = {}
    for part in parts.read(sites):
        for site in sites:
            block = Moments.of(part[site])
            moments[site] = moments[site].merge(block) if site in moments else block
    return moments


def layer_similarity(parts: StoredParts, moments: SiteMoments) -> Doubles:
    """Return the debiased CKA of every pair of sites, (sites, sites); see `debiased_cka`."""
    sites = list(moments)

    def blocks() -> Iterator[list[Floats]]:
        for part in parts.read(sites):
            yield [part[site] for site in sites]

    return debiased_cka(blocks, moments=list(moments.values()), memory=MEMORY)


def prompt_similarity(
    parts: StoredParts, moments: SiteMoments, label: str
) -> list[PromptSimilarity]:
    """Return for each site the cosines over all pairs of prompts, raw and standardised.

    Standardised means that each neuron has mean 0 and standard deviation 1 over the prompts. The
    mean over all pairs is then about 0 whatever the activations are, so its root mean square is
    returned: 0 if every prompt points in a direction of its own.

    Args:
        parts: activations of the sites.
        moments: moments of the neurons of each site.
        label: label by whose values the prompts are grouped; empty for none.
    """
    results: list[PromptSimilarity] = []
    for chunk in _chunks(moments):
        sums = {site: _Sums(moments[site]) for site in chunk}
        for part in parts.read(chunk):
            labels = [prompt.labels.get(label) for prompt in part.prompts]
            for site in chunk:
                sums[site].add(part[site], labels)
        results += [sums[site].similarity() for site in chunk]
    return results


def _chunks(moments: SiteMoments) -> Iterator[list[Site]]:
    """Yield the sites in chunks of at least one, whose sums of products fit in `MEMORY`."""
    chunk: list[Site] = []
    for site in moments:
        if chunk and (len(chunk) + 1) * len(moments[site].mean) ** 2 * 8 > MEMORY:
            yield chunk
            chunk = []
        chunk.append(site)
    yield chunk


class _Sums:
    """Sums over prompts at one site, from which the cosines of all pairs follow."""

    def __init__(self, moments: Moments):
        self._moments = moments
        self._raw, self._standardised = _Cosines(), _Cosines()
        self._products: Doubles | float = 0.0
        """Sum over prompts of u u', (neurons, neurons), where u is a standardised unit vector."""

    def add(self, values: Floats, labels: Sequence[str | None]) -> None:
        standardised = self._moments.standardise(values)
        self._raw.add(values, labels)
        self._standardised.add(standardised, labels)
        units = _units(standardised)
        self._products = self._products + units.T @ units

    def similarity(self) -> PromptSimilarity:
        return PromptSimilarity(
            cosine=self._raw.overall,
            cosine_same=self._raw.same,
            cosine_other=self._raw.other,
            cosine_z=self._root_mean_square(),
            cosine_z_same=self._standardised.same,
            cosine_z_other=self._standardised.other,
        )

    def _root_mean_square(self) -> float:
        """Return the root mean square cosine over pairs of different standardised prompts.

        If U contains the unit vectors, (prompts, neurons), the squares over all ordered pairs add
        up to |U U'|^2 = |U'U|^2.
        """
        count = self._standardised.count
        squares = float(np.square(self._products).sum()) - count
        pairs = count**2 - count
        return math.sqrt(max(squares, 0) / pairs) if pairs else math.nan


class _Cosines:
    """Mean cosines over all prompts, and over those that have a label."""

    def __init__(self) -> None:
        self._every: UnitSum | None = None
        self._groups: dict[str, UnitSum] = {}

    def add(self, rows: NDArray[np.floating], labels: Sequence[str | None]) -> None:
        for label in dict.fromkeys(labels):
            members = UnitSum.of(rows[[row_label == label for row_label in labels]])
            self._every = self._every.merge(members) if self._every else members
            if label is not None:
                before = self._groups.get(label)
                self._groups[label] = before.merge(members) if before else members

    @property
    def count(self) -> int:
        """Number of prompts that have a direction."""
        return self._every.count if self._every else 0

    @property
    def overall(self) -> float:
        """Mean cosine over all pairs of prompts."""
        return MeanCosine.of([self._every]).overall if self._every else math.nan

    @property
    def same(self) -> float:
        """Mean cosine over pairs of prompts of the same label."""
        return MeanCosine.of(list(self._groups.values())).within if self._groups else math.nan

    @property
    def other(self) -> float:
        """Mean cosine over pairs of prompts of different labels."""
        return MeanCosine.of(list(self._groups.values())).between if self._groups else math.nan


def _units(rows: NDArray[np.floating]) -> Doubles:
    """Return rows divided by their norms; rows of zeros stay zero."""
    rows = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Doubles = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return units
