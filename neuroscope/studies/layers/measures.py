"""Measures of one model's layers, computed from what its extraction stored."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ExperimentError
from neuroscope.extraction.models import Model
from neuroscope.prompts import Prompts, PromptSet
from neuroscope.sites import Site
from neuroscope.stats.probes import Probe
from neuroscope.storage.statistics import read_statistics
from neuroscope.studies.layers.geometry import (
    GeometryStatistics,
    TokenGeometry,
    geometry_at,
    merged,
)
from neuroscope.studies.layers.headline import headline
from neuroscope.studies.layers.labels import (
    LEAST_PROBE_PROMPTS,
    count_repeated,
    count_unlabelled,
)
from neuroscope.studies.layers.probing import (
    Sample,
    probe_bag,
    probe_identity,
    probe_label,
    sample_for_tokens,
    sample_labelled,
)
from neuroscope.studies.layers.result import LayerRow, LayersResult, ProbeBaselines
from neuroscope.studies.layers.similarity import (
    PromptSimilarity,
    StoredParts,
    layer_similarity,
    prompt_similarity,
    site_moments,
)
from neuroscope.studies.store.spec import ExtractionSpec
from neuroscope.studies.store.store import store_activations


@dataclass(frozen=True)
class ProbePlan:
    """Plan of the probes: the label and the prompts that they use."""

    label: str
    """Name of the label; empty if there is none."""
    unlabelled: int
    """Number of prompts without the label."""
    repeated: int
    """Number of prompts with the text of an earlier one."""
    probes: bool
    """Whether probes are fitted."""
    most_prompts: int
    """Number of prompts that the probes for the label use at most, if 4 per value are not more."""
    seed: int
    """Seed for drawing prompts and tokens and for splitting them."""

    @classmethod
    def of(
        cls, prompts: Prompts, label: str, *, probes: bool, most_prompts: int, seed: int
    ) -> "ProbePlan":
        """Return the plan for some prompts.

        Raises:
            ExperimentError: `most_prompts` is too small.
        """
        if most_prompts < LEAST_PROBE_PROMPTS:
            raise ExperimentError(
                f"probe_prompts is {most_prompts}, but at least {LEAST_PROBE_PROMPTS} are needed"
            )
        unlabelled, repeated = count_unlabelled(prompts, label), count_repeated(prompts)
        return cls(label, unlabelled, repeated, probes, most_prompts, seed)


@dataclass(frozen=True)
class Extracted:
    """Folders in which the extraction of one model stored what is measured."""

    activations: Path
    """Folder of the mean over the content tokens of every prompt, and of the sums over tokens."""
    tokens: Path | None = None
    """Folder of every content token of some prompts; None without probes."""
    sample: Sample | None = None
    """Prompts that the probes for the label use; None without probes or without a label."""


@dataclass(frozen=True)
class LayerMeasures:
    """Geometry and similarity of all sites, in their order."""

    cka: NDArray[np.float64]
    geometry: Sequence[TokenGeometry]
    similarity: Sequence[PromptSimilarity]


@dataclass(frozen=True)
class LayerProbes:
    """Probes of one site; None where there is nothing to probe for."""

    label: Probe | None
    token: Probe | None


def extract_layers(
    spec: ExtractionSpec,
    plan: ProbePlan,
    folder_of: Callable[[ExtractionSpec], Path],
    load: Callable[[], Model],
) -> Extracted:
    """Store the activations and sums that are measured, unless they are stored already.

    Args:
        spec: specification of the pooled activations of all prompts.
        plan: plan of the probes.
        folder_of: function that returns the folder for the activations of a specification.
        load: function that returns the model; called only if something has to be computed.
    """
    stored = store_activations(spec, folder_of(spec), load, statistics=[GeometryStatistics()])
    if not plan.probes:
        return Extracted(stored.folder)
    prompts = sample_for_tokens(stored.folder, spec.neurons, plan.seed)
    every_token = replace(spec, prompts=PromptSet(tuple(prompts)), pool="none")
    tokens = store_activations(every_token, folder_of(every_token), load)
    if not plan.label:
        return Extracted(stored.folder, tokens.folder)
    sample = sample_labelled(spec.prompts, plan.label, plan.most_prompts, plan.seed)
    return Extracted(stored.folder, tokens.folder, sample)


def measure_layers(extracted: Extracted, sites: Sequence[Site], label: str) -> LayerMeasures:
    """Return geometry and similarity of all sites."""
    sums = merged(read_statistics(extracted.activations, GeometryStatistics.name))
    parts = StoredParts(extracted.activations, sites)
    moments = site_moments(parts, sites)
    return LayerMeasures(
        layer_similarity(parts, moments),
        [geometry_at(sums, site) for site in sites],
        prompt_similarity(parts, moments, label),
    )


def probe_layer(extracted: Extracted, site: Site, seed: int) -> LayerProbes:
    """Return the probes of one site."""
    label = token = None
    if extracted.sample:
        label = probe_label(extracted.activations, site, extracted.sample, seed)
    if extracted.tokens:
        token = probe_identity(extracted.tokens, site, seed)
    return LayerProbes(label, token)


def probe_token_counts(extracted: Extracted, seed: int) -> Probe | None:
    """Return the probe for the label on token counts; None without a label."""
    if extracted.sample is None:
        return None
    return probe_bag(extracted.activations, extracted.sample, seed)


def layers_result(
    model: str,
    layer_count: int,
    sites: Sequence[Site],
    prompts: int,
    measures: LayerMeasures,
    probes: Sequence[LayerProbes],
    bag: Probe | None,
    plan: ProbePlan,
    notes: Sequence[str] = (),
) -> LayersResult:
    """Return the result of one model from what was measured at its sites.

    Args:
        model: name of the model.
        layer_count: number of layers of the model.
        sites: sites that were read, in order.
        prompts: number of prompts.
        measures: geometry and similarity of all sites.
        probes: probes of each site.
        bag: probe for the label on token counts; None if there is none.
        plan: plan of the probes.
        notes: sentences on what limits the meaning of the values.
    """
    label_probes = [site_probes.label for site_probes in probes if site_probes.label]
    token_probes = [site_probes.token for site_probes in probes if site_probes.token]
    layers = [site.layer for site in sites]
    cka_next = [*np.diagonal(measures.cka, 1).tolist(), math.nan]
    rows = [
        LayerRow(
            layer=site.layer,
            depth=relative_depth(site, layer_count),
            **_probe_values("label", probes[index].label),
            **_probe_values("token", probes[index].token),
            cka_next=cka_next[index],
            cka_last=float(measures.cka[index, -1]),
            **asdict(measures.geometry[index]),
            **asdict(measures.similarity[index]),
        )
        for index, site in enumerate(sites)
    ]
    return LayersResult(
        model=model,
        component=sites[0].component,
        prompts=prompts,
        rows=tuple(rows),
        cka=measures.cka,
        baselines=_baselines(plan.label, label_probes, bag, token_probes),
        headline=headline(layers, plan.label, label_probes, bag, token_probes, cka_next),
        notes=(*notes, *_plan_notes(plan, prompts, token_probes)),
    )


def relative_depth(site: Site, layer_count: int) -> float:
    """Return the depth of a site in its model, in per cent of the model's layers.

    The input of a layer is as deep as the output of the layer before.
    """
    return 100 * (site.layer + (site.component != "resid_pre")) / layer_count


def _probe_values(kind: str, probe: Probe | None) -> dict[str, float]:
    """Return the fields of a `LayerRow` on a probe; `kind` is `label` or `token`."""
    names = ("accuracy", "low", "high", "control_accuracy", "selectivity")
    values = [getattr(probe, name) if probe else math.nan for name in names]
    return {
        f"{kind}_{name.removesuffix('_accuracy')}": value
        for name, value in zip(names, values, strict=True)
    }


def _baselines(
    label: str, label_probes: Sequence[Probe], bag: Probe | None, token_probes: Sequence[Probe]
) -> ProbeBaselines:
    return ProbeBaselines(
        label=label if label_probes else "",
        label_chance=label_probes[0].chance if label_probes else math.nan,
        label_tokens=bag.accuracy if bag else math.nan,
        label_values=label_probes[0].classes if label_probes else 0,
        label_heldout=label_probes[0].heldout if label_probes else 0,
        token_values=token_probes[0].classes if token_probes else 0,
        token_chance=token_probes[0].chance if token_probes else math.nan,
        token_heldout=token_probes[0].heldout if token_probes else 0,
    )


def _plan_notes(plan: ProbePlan, prompts: int, token_probes: Sequence[Probe]) -> Iterator[str]:
    """Yield sentences on what limits the probes."""
    if plan.label and plan.unlabelled:
        yield (
            f"{plan.unlabelled:,} of {prompts:,} prompts have no {plan.label} and are not probed"
            " for it"
        )
    if plan.label and plan.probes and plan.repeated:
        yield (
            f"{plan.repeated:,} of {prompts:,} prompts repeat an earlier text; probes may be tested"
            " on texts to which they were fitted"
        )
    if plan.probes and not token_probes:
        yield "too few tokens occur repeatedly to probe for their identity"
