"""Figures of a comparison: by layer, and neuron by neuron."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.activations import Activations, Floats
from neuroscope.extraction.baseline import read_baseline
from neuroscope.labels import model_label
from neuroscope.reporting import plots
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.page import NamedFigure
from neuroscope.sites import Site
from neuroscope.studies.compare.result import (
    LEADING,
    METRICS,
    MOST_PAIRS,
    VIEW_NAMES,
    Comparison,
)

_BY_LAYER = (LEADING, "cosine", "mse")
"""Metrics of the rows of curves."""
_MOST_DRAWN = 12
"""Maximum number of prompts, and of pairs, that are drawn neuron by neuron at a layer."""
_ROUNDING = 1e-3  # in baseline standard deviations; smaller differences are arithmetic noise
_UNIT = "mean over content tokens, in baseline standard deviations"


def layer_figures(comparison: Comparison) -> Iterator[NamedFigure]:
    """Yield the figures by layer."""
    title = f"{model_label(comparison.model)} · {comparison.component}"
    counts = f"pairs of prompts: {len(comparison.pairs):,}; layers: {len(comparison.layers)}"

    def panel(metric: Metric, view: str) -> plots.Panel:
        values = comparison.values(metric.name, view)
        curves = {
            pair: plots.Curve(comparison.layers, by_layer)
            for pair, by_layer in zip(comparison.labels, values, strict=True)
        }
        heading = VIEW_NAMES[view] if metric.name == _BY_LAYER[0] else ""
        return plots.Panel(metric, curves, heading, log=metric.name == "mse")

    yield NamedFigure(
        "by_layer.png",
        "Similarity of every pair by layer: standardised cosine, cosine, mean squared error.",
        plots.plot_curves(
            [[panel(METRICS[name], view) for view in VIEW_NAMES] for name in _BY_LAYER],
            title=title,
            notes=[counts],
            noun="pair",
            ends=("most alike", "least alike"),
        ),
    )
    if 1 < len(comparison.pairs) <= MOST_PAIRS:  # a single pair would repeat the curves
        values = comparison.values(LEADING, "span")
        yield NamedFigure(
            "pairs_by_layer.png",
            "Pairs by layers: standardised cosine of the replaced words.",
            plots.plot_matrix(
                values,
                comparison.labels,
                comparison.layers,
                metric=METRICS[LEADING],
                title=title,
                notes=["standardised cosine of the replaced words", counts],
                noun="pair",
            ),
        )
    if len(comparison.pairs) > 1:
        yield from _prompt_matrices(comparison, title)


def prompt_matrix(comparison: Comparison, layer: int) -> NDArray[np.float64]:
    """Return the standardised cosine of the replaced words, (prompts, prompts), at one layer.

    NaN where two prompts are not compared; 1 on the diagonal.
    """
    index = {prompt: number for number, prompt in enumerate(comparison.prompts)}
    matrix = np.full((len(index), len(index)), np.nan)
    np.fill_diagonal(matrix, 1)
    values = comparison.values(LEADING, "span")[:, comparison.layers.index(layer)]
    for (a, b), value in zip(comparison.text_pairs, values, strict=True):
        matrix[index[a], index[b]] = matrix[index[b], index[a]] = value
    return matrix


def _prompt_matrices(comparison: Comparison, title: str) -> Iterator[NamedFigure]:
    """Yield a matrix of prompts by prompts for each layer that is drawn."""
    for layer in comparison.focus:
        matrix = prompt_matrix(comparison, layer)
        off_diagonal = matrix[~np.eye(len(matrix), dtype=bool)]
        if not np.isfinite(off_diagonal).any():
            continue
        low, high = np.nanmin(off_diagonal), np.nanmax(off_diagonal)
        yield NamedFigure(
            f"prompts_{comparison.component}.{layer}.png",
            f"Prompts by prompts at layer {layer}: standardised cosine of the words in which two"
            " prompts differ.",
            plots.plot_matrix(
                matrix,
                comparison.prompts,
                comparison.prompts,
                metric=METRICS[LEADING],
                title=f"{title}.{layer}",
                notes=["standardised cosine of the replaced words"],
                x_label="",
                noun="prompt",
                limits=(low, high) if low < high else None,
                square=True,
            ),
        )


def neuron_figures(
    comparison: Comparison, activations: Activations[list[Floats]], baseline: Path
) -> Iterator[NamedFigure]:
    """Yield the figures neuron by neuron, without those that would be empty."""
    labels = list(comparison.pair_labels.items())
    for site in activations:
        common: Any = {"model": model_label(comparison.model), "site": str(site)}
        means = dict(zip(activations.prompts.texts, _content_means(activations, site), strict=True))
        for index, (prompt, values) in enumerate(itertools.islice(means.items(), _MOST_DRAWN)):
            if not values.any():
                continue
            yield NamedFigure(
                f"neurons_{site}_{index}.png",
                f"Every neuron of {site} for “{prompt}”, mean over its content tokens.",
                plots.plot_activations(values, prompt=prompt, **common),
            )
        site_baseline = read_baseline(baseline, "content", site.layer)
        z = {prompt: site_baseline.standardise(values) for prompt, values in means.items()}
        for index, ((a, b), label) in enumerate(labels[:_MOST_DRAWN]):
            if np.abs(z[a] - z[b]).max() < _ROUNDING:
                continue
            yield NamedFigure(
                f"difference_{site}_{index}.png",
                f"Difference at {site}: {label}, in baseline standard deviations.",
                plots.plot_difference(z[a], z[b], prompt_a=a, prompt_b=b, unit=_UNIT, **common),
            )


def _content_means(activations: Activations[list[Floats]], site: Site) -> list[Floats]:
    """Return the mean over the content tokens of each prompt, (neurons,)."""
    return [
        values[tokens.content].mean(axis=0)
        for values, tokens in zip(activations[site], activations.tokens, strict=True)
    ]


def omitted_note(comparison: Comparison, activations: Activations[Any]) -> str:
    """Return a sentence on what is not drawn neuron by neuron; empty if everything is drawn."""
    prompts, pairs = len(activations.prompts), len(comparison.pairs)
    if max(prompts, pairs) <= _MOST_DRAWN:
        return ""
    return (
        f"Only the first {_MOST_DRAWN} of {prompts} prompts and of {pairs} pairs are drawn neuron"
        " by neuron; the activations of all are in the run's folder `activations`."
    )
