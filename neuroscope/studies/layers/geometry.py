"""Geometry of tokens at each site: sums computed during the passes and merged over parts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.batching import Batch
from neuroscope.extraction.geometry import token_sums
from neuroscope.extraction.recorder import Keep
from neuroscope.sites import Site
from neuroscope.stats.geometry import outlier_neurons
from neuroscope.tokens import TokenBlock

Sums = Mapping[str, NDArray[np.float64]]
"""Name -> sum over tokens or prompts; see `_Part.add`."""


@dataclass(frozen=True)
class TokenGeometry:
    """Geometry of the tokens at a site; each value is a mean over all tokens or prompts."""

    norm: float
    anisotropy: float
    effective_rank: float
    entropy: float
    curvature: float
    outlier_share: float
    outlier_energy: float


class GeometryStatistics:
    """Sums over the content tokens of every prompt, at every site that a pass reads."""

    name = "geometry-2"

    def rider(self, ids: Sequence[str], block: TokenBlock, first: int) -> "_Part":
        """Return empty sums for a part."""
        return _Part()


class _Part:
    """Sums over one part of the prompts."""

    def __init__(self) -> None:
        self._sums: dict[Site, dict[str, NDArray[np.float64]]] = {}

    def reduce(self, site: Site, batch: Batch) -> Keep:
        return partial(token_sums, kept=batch.kept)

    def add(self, site: Site, batch: Batch, reduced: Any) -> None:
        sums = {name: tensor.double().cpu().numpy() for name, tensor in reduced.items()}
        counts = batch.kept.sum(dim=1).double().cpu().numpy()
        turns = sums["turns"]
        curved = turns > 0
        summed = {
            "tokens": counts.sum(),
            "square_tokens": np.square(counts).sum(),
            "prompts": np.array(len(counts)),
            "norm": sums["norm"].sum(),
            "square": sums["square"],
            "unit": sums["unit"],
            "unit_square": sums["unit_square"].sum(),
            "rank": sums["rank"].sum(),
            "log_rank": np.log(sums["rank"]).sum(),
            "curvature": (sums["angles"][curved] / turns[curved]).sum(),
            "curved": curved.sum(),
        }
        self._sums[site] = merged([self._sums.get(site, {}), summed])

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return {
            f"{site}.{name}": np.asarray(values, dtype=np.float64)
            for site, sums in self._sums.items()
            for name, values in sums.items()
        }


def merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of several parts added together."""
    total: dict[str, Any] = {}
    for part in parts:
        for name, values in part.items():
            total[name] = total[name] + values if name in total else values
    return total


def geometry_at(sums: Sums, site: Site) -> TokenGeometry:
    """Return the geometry at a site from the merged sums of all parts."""
    site_sums = {
        name.removeprefix(f"{site}."): values
        for name, values in sums.items()
        if name.startswith(f"{site}.")
    }
    tokens, prompts = float(site_sums["tokens"]), float(site_sums["prompts"])
    pairs = tokens**2 - float(site_sums["square_tokens"])
    between = float(site_sums["unit"] @ site_sums["unit"]) - float(site_sums["unit_square"])
    outliers = outlier_neurons(site_sums["square"] / tokens)
    return TokenGeometry(
        norm=float(site_sums["norm"]) / tokens,
        anisotropy=between / pairs if pairs else math.nan,
        effective_rank=float(site_sums["rank"]) / prompts,
        entropy=float(site_sums["log_rank"]) / prompts,
        curvature=float(site_sums["curvature"]) / float(site_sums["curved"])
        if site_sums["curved"]
        else math.nan,
        outlier_share=outliers.share,
        outlier_energy=outliers.energy,
    )
