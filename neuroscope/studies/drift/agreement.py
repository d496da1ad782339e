"""Agreement of a base and a candidate, site by site, and the statistic of the decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from neuroscope.activations import Floats
from neuroscope.sites import Site
from neuroscope.stats.cka import debiased_cka
from neuroscope.stats.decision import Limits, Verdict, decide, limits, p_value
from neuroscope.stats.moments import Doubles
from neuroscope.stats.neighbours import mutual_neighbours, varies
from neuroscope.stats.paired import (
    bootstrap_counts,
    correlation_distances,
    neuron_distances,
    resampled_medians,
    spread,
)

Values = Mapping[Site, Floats]
"""Site -> (prompts, neurons) pooled activations."""


@dataclass(frozen=True)
class SiteAgreement:
    """How far the neurons of a site are apart in two models, over the same prompts.

    Distances are 1 - r, with r the correlation of a neuron's activations in both models.
    """

    component: str
    layer: int
    """Layer of the base."""
    match: int
    """Layer of the candidate."""
    cka: float
    """Debiased linear CKA of standardised neurons."""
    neighbours: float
    """Mean share of common nearest neighbours of a prompt; NaN if no neuron varies in a model."""
    one_minus_r: float = np.nan
    """Median distance over neurons; each model on its own input. NaN, as all that follows, if the
    neurons of the models do not correspond."""
    q25: float = np.nan
    """Quantile over neurons, as the next two."""
    q75: float = np.nan
    q95: float = np.nan
    skipped: int = 0
    """Number of neurons without a distance: constant in both models, at different values."""
    rms_z: float = np.nan
    """Median over neurons of the root mean squared difference, in standard deviations."""
    local: float = np.nan
    """Median distance over neurons if the candidate's layer reads what the base's layer reads."""
    local_rms_z: float = np.nan
    null_low: float = np.nan
    """Least median distance of a benign replicate; NaN where replicates are not read."""
    null_high: float = np.nan
    """Largest median distance of a benign replicate."""


def site_agreement(
    site: Site, match: Site, base: Floats, candidate: Floats, *, neighbours: int
) -> SiteAgreement:
    """Return the agreement of the geometry at one site, whatever the widths of the models.

    Args:
        site: site of the base.
        match: site of the candidate.
        base: (prompts, neurons) activations of the base.
        candidate: activations of the candidate, on its own input.
        neighbours: number of nearest neighbours of each prompt.
    """
    return SiteAgreement(
        component=site.component,
        layer=site.layer,
        match=match.layer,
        cka=cka_between(base, candidate),
        neighbours=mutual_neighbours(base, candidate, neighbours)
        if varies(base) and varies(candidate)
        else np.nan,
    )


def with_neurons(
    row: SiteAgreement, base: Floats, candidate: Floats, local: Floats | None
) -> SiteAgreement:
    """Add the distances of the neurons, which correspond in both models.

    Args:
        row: agreement of the geometry.
        base: (prompts, neurons) activations of the base.
        candidate: activations of the candidate, on its own input.
        local: activations of the candidate on the base's input of the layer, if there are any.
    """
    propagated = neuron_distances(base, candidate)
    distance = spread(propagated.distance)
    own = None if local is None else neuron_distances(base, local)
    return replace(
        row,
        one_minus_r=distance.median,
        q25=distance.quantiles[0.25],
        q75=distance.quantiles[0.75],
        q95=distance.quantiles[0.95],
        skipped=distance.skipped,
        rms_z=spread(propagated.rms_z, ()).median,
        local=np.nan if own is None else spread(own.distance, ()).median,
        local_rms_z=np.nan if own is None else spread(own.rms_z, ()).median,
    )


def cka_between(base: Floats, candidate: Floats) -> float:
    """Return the debiased CKA of two sets of activations of the same prompts."""
    return float(debiased_cka(lambda: [[base, candidate]])[0, 1])


@dataclass(frozen=True)
class Decision:
    """Verdict on a candidate, with the statistic and the limits from which it follows.

    The statistic is the largest distance over the layers that decide.
    """

    verdict: Verdict
    statistic: float
    lower: float
    """One-sided 95 % confidence limits, from a bootstrap over prompts."""
    upper: float
    margin: float
    p_value: float
    alpha: float
    replicates: int
    null: float
    """Largest statistic of a benign replicate."""


class Distance(Protocol):
    """Distance of a site in two models, over the same prompts."""

    name: str
    """Name of the distance, for messages."""

    def between(self, base: Floats, candidate: Floats) -> float:
        """Return the distance, from 0 up."""
        ...

    def resampled(self, base: Floats, candidate: Floats, resamples: int, seed: int) -> Doubles:
        """Return the distance for resamples of the prompts, (resamples,)."""
        ...


class NeuronDistance:
    """Median over neurons of 1 - r, for models whose neurons correspond; a bootstrap of prompts."""

    name = "the correlation of neurons"

    def between(self, base: Floats, candidate: Floats) -> float:
        return spread(correlation_distances(base, candidate), ()).median

    def resampled(self, base: Floats, candidate: Floats, resamples: int, seed: int) -> Doubles:
        return resampled_medians(base, candidate, bootstrap_counts(len(base), resamples, seed))


class GeometryDistance:
    """1 - debiased CKA, for models of any width.

    A bootstrap would repeat prompts, which the debiased estimator takes for similar ones. Halves of
    the prompts are drawn without replacement instead: the spread of an estimate over halves is
    that of the estimate over all prompts (delete-half jackknife, Shao & Wu 1989, Annals of
    Statistics 17).
    """

    name = "CKA"

    def between(self, base: Floats, candidate: Floats) -> float:
        """Return 1 - CKA; 1 if no neuron varies in one of the models, and 0 if in both."""
        if not (varies(base) and varies(candidate)):
            return float(varies(base) or varies(candidate))
        return 1 - cka_between(base, candidate)

    def resampled(self, base: Floats, candidate: Floats, resamples: int, seed: int) -> Doubles:
        rng, prompts = np.random.default_rng(seed), len(base)
        distances = np.empty(resamples)
        for index in range(resamples):
            half = rng.permutation(prompts)[: prompts // 2]
            distances[index] = self.between(base[half], candidate[half])
        return distances


@dataclass(frozen=True)
class Estimate:
    """Statistic of a candidate: the largest distance over the layers that decide."""

    statistic: float
    limits: Limits
    """One-sided 95 % confidence limits."""


def estimate_drift(
    base: Sequence[Floats],
    candidate: Sequence[Floats],
    distance: Distance,
    *,
    resamples: int,
    seed: int,
) -> Estimate:
    """Return the statistic of a candidate with its limits.

    Args:
        base: (prompts, neurons) activations of the base at each layer that decides.
        candidate: activations of the candidate at the layers that correspond to these.
        distance: distance of a layer in both models.
        resamples: number of resamples of the prompts.
        seed: seed of the resamples; they are the same for all layers.
    """
    layers = list(zip(base, candidate, strict=True))
    resampled = [distance.resampled(*layer, resamples, seed) for layer in layers]
    statistic = max(distance.between(*layer) for layer in layers)
    return Estimate(statistic, limits(statistic, np.max(resampled, axis=0)))


def decide_drift(estimate: Estimate, null: Doubles, *, margin: float, alpha: float) -> Decision:
    """Decide whether a candidate is compatible with the base or has drifted from it.

    Args:
        estimate: statistic of the candidate.
        null: (replicates, layers) distances of the benign replicates.
        margin: largest acceptable statistic.
        alpha: rate of false alarms.
    """
    replicated = null.max(axis=1)
    p = p_value(estimate.statistic, replicated)
    return Decision(
        verdict=decide(*estimate.limits, margin, p, alpha),
        statistic=estimate.statistic,
        lower=estimate.limits.lower,
        upper=estimate.limits.upper,
        margin=margin,
        p_value=p,
        alpha=alpha,
        replicates=len(replicated),
        null=float(replicated.max()),
    )
