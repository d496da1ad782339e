"""Figures of a study of drift."""

from collections.abc import Iterator, Sequence

from neuroscope.labels import model_label
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import (
    Band,
    Curve,
    NeuronPair,
    Panel,
    plot_curves,
    plot_matrix,
    plot_neuron_pairs,
    plot_patching,
)
from neuroscope.sites import Site, parse_site
from neuroscope.studies.drift.agreement import Values
from neuroscope.studies.drift.result import DriftResult, Patching, Topics

_DISTANCE = Metric("one_minus_r", "1 - r", "median over neurons of 1 - r", "low")
_CKA = Metric("cka", "debiased CKA", "similarity of the layer in both models", "high")
_NEIGHBOURS = Metric("neighbours", "common neighbours", "share of common neighbours", "high")
_CHANGE = Metric("rms_z", "change (sd)", "root mean squared change in standard deviations", "low")
_RETURNED = Metric("returned", "share returned", "share of the change that returns", "high")
_DRAWN = 6
"""Number of neurons that are drawn prompt by prompt."""


def drift_figures(result: DriftResult) -> Iterator[NamedFigure]:
    """Yield the figures that need no activations, the most informative first."""
    if not result.sites:
        return
    title = f"{model_label(result.model)} against {model_label(result.base)}"
    notes = [f"{result.prompts:,} prompts"]
    yield NamedFigure(
        "drift_by_layer.png",
        "Distance of the neurons by layer: propagated (each model on its own input) and local (the"
        " candidate's layer on the base's input), with the range of benign replicates.",
        plot_curves([_panels(result)], title=title, notes=notes),
    )
    explanation = result.explanation
    if explanation is None:
        return
    if explanation.topics:
        yield NamedFigure(
            "topics_by_layer.png",
            "Change of the neurons on the prompts of each topic, in standard deviations of the"
            " base.",
            _topics(result, explanation.topics, title),
        )
    if explanation.patching:
        yield NamedFigure(
            "patching.png",
            "Share of the change of the outputs that returns when the base's residual stream is"
            " put in after each layer.",
            _patching(explanation.patching, title),
        )


def neuron_figure(
    result: DriftResult, base: Values, candidate: Values, topics: Sequence[str | None]
) -> Iterator[NamedFigure]:
    """Yield the figure of the neurons that moved most, prompt by prompt."""
    neurons = result.explanation.neurons[:_DRAWN] if result.explanation else ()
    pairs = []
    for row in neurons:
        name, _, neuron = row.neuron.rpartition(".")
        site = Site.parse(name)
        column = int(neuron)
        pairs.append(
            NeuronPair(
                row.neuron, base[site][:, column], candidate[site][:, column], row.one_minus_r
            )
        )
    if pairs:
        named = [topic or "" for topic in topics]
        yield NamedFigure(
            "neurons.png",
            "The neurons that moved most: each point is a prompt.",
            plot_neuron_pairs(
                pairs,
                topics=named if any(named) else None,
                x_label=model_label(result.base),
                y_label=model_label(result.model),
                title="Neurons that moved most",
            ),
        )


def _panels(result: DriftResult) -> list[Panel]:
    component = parse_site(result.site)[0]
    rows = [row for row in result.sites if row.component == component]
    layers = [row.layer for row in rows]
    panels = [
        Panel(_CKA, {"propagated": Curve(layers, [row.cka for row in rows])}),
        Panel(_NEIGHBOURS, {"propagated": Curve(layers, [row.neighbours for row in rows])}),
    ]
    if result.basis != "neurons":
        return panels
    curves = {"propagated": Curve(layers, [row.one_minus_r for row in rows])}
    if any(row.local == row.local for row in rows):
        curves["local"] = Curve(layers, [row.local for row in rows])
    low, high = [row.null_low for row in rows], [row.null_high for row in rows]
    distances = Panel(
        _DISTANCE,
        curves,
        title=component,
        references={"margin": result.decision.margin},
        log=True,
        band=Band("benign replicates", layers, low, high),
    )
    return [distances, *panels]


def _topics(result: DriftResult, topics: Topics, title: str) -> object:
    component = parse_site(result.site)[0]
    layers = [row.layer for row in result.sites if row.component == component]
    return plot_matrix(
        topics.changes,
        topics.names,
        layers,
        metric=_CHANGE,
        title=title,
        noun="topic",
        limits=(0, None),
    )


def _patching(patching: Patching, title: str) -> object:
    """Return the figure of patching; the input of the first layer has the number -1."""
    layers = [Site.parse(site).layer if "post" in site else -1 for site in patching.sites]
    shares = patching.returned[1:]
    errors = patching.errors[1:]
    band = (
        [share - error for share, error in zip(shares, errors, strict=True)],
        [share + error for share, error in zip(shares, errors, strict=True)],
    )
    return plot_patching(
        layers[1:],
        shares,
        band,
        metric=_RETURNED,
        title=title,
        notes=[
            f"{patching.prompts:,} prompts; the embeddings alone return {patching.returned[0]:.0%}"
        ],
    )
