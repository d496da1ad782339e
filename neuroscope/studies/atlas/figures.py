"""Figures of an atlas: where topics are, how they grow through the layers, what they share."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from neuroscope.labels import model_label
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import Curve, Panel, plot_curves, plot_matrix
from neuroscope.studies.atlas.result import METRICS, AtlasResult

_AUROC = Metric("auroc", "held-out AUROC", "held-out AUROC", "high")


def atlas_figures(result: AtlasResult) -> Iterator[NamedFigure]:
    """Yield the figures, the most informative first."""
    title = f"{model_label(result.model)} · {result.component}"
    notes = [f"{result.neurons:,} neurons, {result.prompts:,} prompts"]
    yield NamedFigure(
        "selective_by_layer.png",
        "Neurons that respond to each topic, by layer, without those that length, punctuation or"
        " source explain.",
        _counts(result, "selective", title, notes),
    )
    if any(row.confounded for row in result.rows):
        yield NamedFigure(
            "confounded_by_layer.png",
            "Neurons that seem to respond to each topic, but that length, punctuation or source"
            " explain.",
            _counts(result, "confounded", title, notes),
        )
    if len(result.layers) > 1:
        yield NamedFigure(
            "growth_by_layer.png",
            "How well the best neuron of a layer, and the layer as a whole, tell each topic apart.",
            plot_curves([_growth_panels(result)], title=title, notes=notes, noun="topic"),
        )
    shared = _shared(result)
    if not np.isnan(shared).all():
        names = [row.topic for row in result.topics]
        yield NamedFigure(
            "overlap.png",
            "Neurons that two topics share: neurons of both / neurons of either, confounded ones"
            " included.",
            plot_matrix(
                shared,
                names,
                names,
                metric=METRICS["overlap"],
                title=title,
                notes=notes,
                x_label="topic",
                noun="topic",
                limits=(0, None),
                square=True,
            ),
        )


def _shared(result: AtlasResult) -> NDArray[np.float64]:
    """Return the overlap of every two topics, (topics, topics); NaN for a topic with itself."""
    shared = np.array(result.overlap, dtype=np.float64)
    np.fill_diagonal(shared, np.nan)
    return shared


def _counts(result: AtlasResult, name: str, title: str, notes: list[str]) -> object:
    """Return the numbers of neurons as a matrix of topics by layers."""
    names = [row.topic for row in result.topics]
    return plot_matrix(
        [result.of_topic(topic, name) for topic in names],
        names,
        result.layers,
        metric=Metric(name, f"{name} neurons", METRICS[name].meaning),
        title=title,
        notes=[f"{METRICS[name].heading} neurons", *notes],
        noun="topic",
        limits=(0, None if any(getattr(row, name) for row in result.rows) else 1),
    )


def _growth_panels(result: AtlasResult) -> list[Panel]:
    """Return a panel of the best neurons, and one of the directions."""
    panels = []
    for field, heading in (
        ("best_auroc", "best neuron"),
        ("direction_auroc", "whole layer (direction)"),
    ):
        curves = {
            row.topic: Curve(result.layers, result.of_topic(row.topic, field))
            for row in result.topics
        }
        panels.append(Panel(_AUROC, curves, heading))
    return panels
