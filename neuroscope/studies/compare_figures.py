"""The figures of a comparison: over layers, and neuron by neuron."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neuroscope.activations import Activations, Floats
from neuroscope.align import VIEWS
from neuroscope.extraction.baseline import read_baseline
from neuroscope.reporting import plots
from neuroscope.results import METRICS, Comparison, model_label, pair_labels
from neuroscope.sites import Site

_MOST_DRAWN = 12
"""Prompts, and pairs, that are drawn neuron by neuron at a layer."""
_ROUNDING = 1e-3  # reference standard deviations; a picture of less would show arithmetic noise
_UNIT = "mean over content tokens, in reference standard deviations"


class NamedFigure(NamedTuple):
    """A figure with its file's name and what it shows."""

    name: str
    caption: str
    figure: Any


def layer_figures(comparison: Comparison) -> Iterator[NamedFigure]:
    """What is drawn over layers."""
    labels = pair_labels([(pair.a, pair.b) for pair in comparison.pairs])
    about: Any = {"model": model_label(comparison.model), "component": comparison.site}
    by_view = {view: [row for row in comparison.rows if row.view == view] for view in VIEWS}

    def curves(metric: str, view: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {label: [] for label in labels.values()}
        for row in sorted(by_view[view], key=lambda row: row.layer):
            found[labels[row.a, row.b]].append(getattr(row, metric))
        return found

    series = {
        (metric, view): curves(metric, view) for metric in ("cosine", "mse") for view in VIEWS
    }
    yield NamedFigure(
        "by_layer.png",
        "Cosine similarity and mean squared error by layer, for every pair in the three views.",
        plots.plot_by_layer(comparison.layers, series, **about),
    )
    # of a single pair the curves say all that a second map could
    for metric in ("cosine", "cosine_z") if len(labels) > 1 else ("cosine",):
        table = curves(metric, "aligned")
        yield NamedFigure(
            f"pairs_by_layer_{metric}.png",
            f"Pairs by layers: {METRICS[metric]}, aligned view.",
            plots.plot_pairs_by_layer(
                comparison.layers,
                list(table),
                list(table.values()),
                metric=metric,
                view="aligned",
                **about,
            ),
        )


def neuron_figures(
    comparison: Comparison, activations: Activations[list[Floats]], reference: Path
) -> Iterator[NamedFigure]:
    """What is drawn neuron by neuron; nothing where there is nothing to see."""
    pairs = [(pair.a, pair.b) for pair in comparison.pairs]
    for site in activations:
        about: Any = {"model": model_label(comparison.model), "site": str(site)}
        means = dict(zip(activations.prompts.texts, _content_means(activations, site), strict=True))
        for index, (prompt, values) in enumerate(itertools.islice(means.items(), _MOST_DRAWN)):
            if not values.any():
                continue
            yield NamedFigure(
                f"neurons_{site}_{index}.png",
                f"Every neuron of {site} for “{prompt}”, mean over its content tokens.",
                plots.plot_activations(values, prompt=prompt, **about),
            )
        usual = read_baseline(reference, "content", site.layer)
        z = {prompt: usual.standardise(values) for prompt, values in means.items()}
        for index, ((a, b), label) in enumerate(pair_labels(pairs[:_MOST_DRAWN]).items()):
            if np.abs(z[a] - z[b]).max() < _ROUNDING:
                continue
            yield NamedFigure(
                f"difference_{site}_{index}.png",
                f"Difference at {site}: {label}, in reference standard deviations.",
                plots.plot_difference(z[a], z[b], prompt_a=a, prompt_b=b, unit=_UNIT, **about),
            )


def _content_means(activations: Activations[list[Floats]], site: Site) -> list[Floats]:
    """(neurons,) for each prompt: mean over its content tokens."""
    return [
        values[tokens.content].mean(axis=0)
        for values, tokens in zip(activations[site], activations.tokens, strict=True)
    ]


def left_out(comparison: Comparison, activations: Activations[Any]) -> str:
    """A sentence on what is not drawn neuron by neuron, if anything."""
    prompts, pairs = len(activations.prompts), len(comparison.pairs)
    if max(prompts, pairs) <= _MOST_DRAWN:
        return ""
    return (
        f"Drawn neuron by neuron are the first {_MOST_DRAWN} of {prompts} prompts and of {pairs}"
        " pairs; the activations of all are in the run's folder `activations`."
    )
