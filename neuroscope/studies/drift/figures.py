"""Figures of a study of drift."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

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
from neuroscope.reporting.plots.scales import MOST_SPREAD
from neuroscope.sites import Site, parse_site
from neuroscope.studies.drift.agreement import SiteAgreement, Values
from neuroscope.studies.drift.positions import Positions
from neuroscope.studies.drift.result import DriftResult, Explanation, Patching, Topics

LAYERS, GEOMETRY = "drift_by_layer.png", "geometry_by_layer.png"
TOPICS, POSITIONS = "topics_by_layer.png", "positions_by_layer.png"
PATCHING, NEURONS = "patching.png", "neurons.png"

_DISTANCE = Metric("one_minus_r", "1 - r", "median over neurons of 1 - r", "low")
_CKA = Metric("cka", "1 - debiased CKA", "distance of the layer in both models", "low")
_NEIGHBOURS = Metric("neighbours", "lost neighbours", "share of neighbours that changed", "low")
_CHANGE = Metric("rms_z", "change (sd)", "root mean squared change in standard deviations", "low")
_STREAM = Metric("stream", "relative change", "root mean squared change / spread of the base")
_RETURNED = Metric("returned", "share returned", "share of the change that returns", "high")
_DRAWN = 6
"""Number of neurons that are drawn prompt by prompt."""


def drift_figures(result: DriftResult) -> Iterator[NamedFigure]:
    """Yield the figures that need no activations, the most informative first."""
    if not result.sites:
        return
    notes = [f"{result.title}; {result.prompts:,} prompts"]
    if result.basis == "neurons":
        yield NamedFigure(
            LAYERS,
            "Median over neurons of 1 - r. Propagated: each model on its own input. Local: the"
            " candidate's layer on the base's input. Grey: up to the largest benign replicate.",
            plot_curves(
                [_distance_panels(result)],
                title=f"Where the neurons changed: {result.site} by layer",
                notes=notes,
            ),
        )
    yield NamedFigure(
        GEOMETRY,
        "Distance of the layers without matching neurons: 1 - debiased CKA, and the share of a"
        " prompt's nearest neighbours that are others in the candidate.",
        plot_curves(
            [_geometry_panels(result)],
            title=f"How the representations changed: {result.site} by layer",
            notes=notes,
        ),
    )
    if result.explanation:
        yield from _explanation_figures(result, result.explanation, notes)


def _explanation_figures(
    result: DriftResult, explanation: Explanation, notes: Sequence[str]
) -> Iterator[NamedFigure]:
    """Yield the figures of the explanation."""
    if explanation.topics and explanation.topics.names:
        yield NamedFigure(
            TOPICS,
            "Root mean squared change over all neurons on the prompts of each topic, in standard"
            " deviations of the base. Large changes weigh more than in the median rms z.",
            _topics(result, explanation.topics, notes),
        )
    if explanation.positions and explanation.positions.sites:
        yield NamedFigure(
            POSITIONS,
            "Root mean squared change of the residual stream after each layer, at the tokens in"
            " these positions, relative to its spread there in the base.",
            _positions(explanation.positions, notes),
        )
    if explanation.patching:
        yield NamedFigure(
            PATCHING,
            "Share of the change of the outputs that disappears if the base's residual stream is"
            " put in after one layer.",
            _patching(explanation.patching, notes),
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
            NEURONS,
            "The neurons that moved most: each point is a prompt.",
            plot_neuron_pairs(
                pairs,
                topics=named if any(named) else None,
                x_label=result.names[0],
                y_label=result.names[1],
                title="Neurons that moved most",
                notes=[f"{result.title}; a point per prompt"],
            ),
        )


def _deciding(result: DriftResult) -> list[SiteAgreement]:
    """Return the rows of the component that decides."""
    component = parse_site(result.site)[0]
    return [row for row in result.sites if row.component == component]


def _distance_panels(result: DriftResult) -> list[Panel]:
    """Return the distances by layer on a linear axis, and on a logarithmic one if that helps."""
    rows = _deciding(result)
    layers = [row.layer for row in rows]
    curves = {"propagated": Curve(layers, [row.one_minus_r for row in rows])}
    if any(row.local == row.local for row in rows):
        curves["local"] = Curve(layers, [row.local for row in rows])
    null = [row.null_high for row in rows]
    margin = result.decision.margin
    panel = Panel(
        _DISTANCE,
        curves,
        references={f"margin {margin:g}": margin},
        band=Band("benign replicates", layers, [0.0] * len(rows), null),
    )
    drawn = [margin, *null, *(value for curve in curves.values() for value in curve.values)]
    positive = [value for value in drawn if value and value > 0]
    if min(positive) * MOST_SPREAD > max(positive):
        return [panel]
    floor = 10.0 ** math.floor(math.log10(min(positive)))
    low = [min(floor, value) for value in null]
    logarithmic = replace(
        panel, title="logarithmic", log=True, band=Band("benign replicates", layers, low, null)
    )
    return [replace(panel, title="linear"), logarithmic]


def _geometry_panels(result: DriftResult) -> list[Panel]:
    rows = _deciding(result)
    layers = [row.layer for row in rows]
    return [
        Panel(_CKA, {"": Curve(layers, [1 - row.cka for row in rows])}, from_zero=True),
        Panel(
            _NEIGHBOURS, {"": Curve(layers, [1 - row.neighbours for row in rows])}, from_zero=True
        ),
    ]


def _topics(result: DriftResult, topics: Topics, notes: Sequence[str]) -> object:
    left_out = len(topics.rows) - len(topics.names)
    shown = [f"the first {len(topics.names)} of {len(topics.rows)} topics"] if left_out else []
    return plot_matrix(
        topics.changes,
        topics.names,
        [row.layer for row in _deciding(result)],
        metric=_CHANGE,
        title=f"On which topics: {result.site} by layer",
        notes=[*notes, *shown],
        noun="topic",
        limits=(0, None),
    )


def _positions(positions: Positions, notes: Sequence[str]) -> object:
    return plot_matrix(
        positions.change[:, -1],
        [Site.parse(site).layer for site in positions.sites],
        positions.buckets,
        metric=_STREAM,
        title="At which positions: residual stream by layer",
        notes=notes,
        x_label="position of the token in its prompt",
        y_label="layer",
        limits=(0, None),
    )


def _patching(patching: Patching, notes: Sequence[str]) -> object:
    """Return the figure of patching; the input of the first layer is named in a note."""
    layers = [Site.parse(site).layer for site in patching.sites[1:]]
    shares, errors = patching.returned[1:], patching.errors[1:]
    band = (
        [share - error for share, error in zip(shares, errors, strict=True)],
        [share + error for share, error in zip(shares, errors, strict=True)],
    )
    return plot_patching(
        layers,
        shares,
        band,
        before=patching.returned[0],
        metric=_RETURNED,
        title="Where the change of the outputs comes from: patching",
        notes=[
            *notes,
            f"{patching.prompts:,} of the prompts are patched; the embeddings alone return"
            f" {patching.returned[0]:.0%}",
        ],
    )
