"""Agreement of a base and a candidate, site by site, and the statistic of the decision."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neuroscope.activations import Floats
from neuroscope.sites import Site
from neuroscope.stats.cka import debiased_cka
from neuroscope.stats.decision import Limits, Verdict, decide, limits, p_value
from neuroscope.stats.moments import Doubles
from neuroscope.stats.neighbours import mutual_neighbours
from neuroscope.stats.paired import (
    bootstrap_counts,
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
    one_minus_r: float
    """Median distance over neurons; each model on its own input."""
    q25: float
    """Quantile over neurons, as the next two."""
    q75: float
    q95: float
    skipped: int
    """Number of neurons without a distance: constant in both models, at different values."""
    rms_z: float
    """Median over neurons of the root mean squared difference, in standard deviations."""
    cka: float
    """Debiased linear CKA of standardised neurons."""
    neighbours: float
    """Mean share of common nearest neighbours of a prompt."""
    local: float = np.nan
    """Median distance over neurons if the candidate's layer reads what the base's layer reads."""
    local_rms_z: float = np.nan
    null_low: float = np.nan
    """Least median distance of a benign replicate; NaN where replicates are not read."""
    null_high: float = np.nan
    """Largest median distance of a benign replicate."""


def site_agreement(
    site: Site, base: Floats, candidate: Floats, local: Floats | None, *, neighbours: int
) -> SiteAgreement:
    """Return the agreement at one site, at which the neurons of both models correspond.

    Args:
        site: site of the activations.
        base: (prompts, neurons) activations of the base.
        candidate: activations of the candidate, on its own input.
        local: activations of the candidate on the base's input of the layer, if there are any.
        neighbours: number of nearest neighbours of each prompt.
    """
    propagated = neuron_distances(base, candidate)
    distance, change = spread(propagated.distance), spread(propagated.rms_z, ())
    if local is None:
        local_median, local_rms_z = np.nan, np.nan
    else:
        measured = neuron_distances(base, local)
        local_median = spread(measured.distance, ()).median
        local_rms_z = spread(measured.rms_z, ()).median
    return SiteAgreement(
        component=site.component,
        layer=site.layer,
        one_minus_r=distance.median,
        q25=distance.quantiles[0.25],
        q75=distance.quantiles[0.75],
        q95=distance.quantiles[0.95],
        skipped=distance.skipped,
        rms_z=change.median,
        cka=cka_between(base, candidate),
        neighbours=mutual_neighbours(base, candidate, neighbours),
        local=local_median,
        local_rms_z=local_rms_z,
    )


def cka_between(base: Floats, candidate: Floats) -> float:
    """Return the debiased CKA of two sets of activations of the same prompts."""
    return float(debiased_cka(lambda: [[base, candidate]])[0, 1])


@dataclass(frozen=True)
class Decision:
    """Verdict on a candidate, with the statistic and the limits from which it follows.

    The statistic is the largest over layers of the median over neurons of 1 - r.
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


def decide_drift(
    base: Values,
    candidate: Values,
    null: Doubles,
    *,
    margin: float,
    alpha: float,
    resamples: int,
    seed: int,
) -> Decision:
    """Decide whether a candidate is compatible with the base or has drifted from it.

    Args:
        base: activations of the base at the sites that decide.
        candidate: activations of the candidate at the same sites.
        null: (replicates, sites) median distances of the benign replicates.
        margin: largest acceptable statistic.
        alpha: rate of false alarms.
        resamples: number of bootstrap resamples of the prompts.
        seed: seed of the resamples.
    """
    counts = bootstrap_counts(len(next(iter(base.values()))), resamples, seed)
    resampled = [resampled_medians(base[site], candidate[site], counts) for site in base]
    statistic = max(
        spread(neuron_distances(base[site], candidate[site]).distance, ()).median for site in base
    )
    ends: Limits = limits(np.max(resampled, axis=0))
    replicated = null.max(axis=1)
    p = p_value(statistic, replicated)
    return Decision(
        verdict=decide(*ends, margin, p, alpha),
        statistic=statistic,
        lower=ends.lower,
        upper=ends.upper,
        margin=margin,
        p_value=p,
        alpha=alpha,
        replicates=len(replicated),
        null=float(replicated.max()),
    )
