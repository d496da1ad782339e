"""Figures of a comparison: by layer, and neuron by neuron."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neuroscope.activations import Activations, Floats
from neuroscope.align import VIEWS
from neuroscope.extraction.baseline import read_baseline
from neuroscope.labels import model_label, pair_labels
from neuroscope.reporting import plots
from neuroscope.reporting.metrics import Metric
from neuroscope.sites import Site
from neuroscope.studies.compare.result import METRICS, Comparison
from neuroscope.studies.run_folder import NamedFigure

_MOST_DRAWN = 12
"""Maximum number of prompts, and of pairs, that are drawn neuron by neuron at a layer."""
_ROUNDING = 1e-3  # in baseline standard deviations; smaller differences are arithmetic noise
_UNIT = "mean over content tokens, in baseline standard deviations"


def layer_figures(comparison: Comparison) -> Iterator[NamedFigure]:
    """Yield the figures by layer."""
    labels = pair_labels(comparison.text_pairs)
    title = f"{model_label(comparison.model)} · {comparison.component}"
    counts = f"pairs of prompts: {len(labels):,}; layers: {len(comparison.layers)}"
    by_view = {view: [row for row in comparison.rows if row.view == view] for view in VIEWS}

    def values(metric: Metric, view: str) -> dict[str, list[float]]:
        by_pair: dict[str, list[float]] = {label: [] for label in labels.values()}
        for row in sorted(by_view[view], key=lambda row: row.layer):
            by_pair[labels[row.a, row.b]].append(getattr(row, metric.name))
        return by_pair

    def panel(metric: Metric, view: str) -> plots.Panel:
        by_pair = values(metric, view).items()
        curves = {pair: plots.Curve(comparison.layers, by_layer) for pair, by_layer in by_pair}
        return plots.Panel(
            metric, curves, view if metric.name == "cosine" else "", log=metric.name == "mse"
        )

    yield NamedFigure(
        "by_layer.png",
        "Cosine similarity and mean squared error by layer, for every pair in the three views.",
        plots.plot_curves(
            [
                [panel(metric, view) for view in VIEWS]
                for metric in (METRICS["cosine"], METRICS["mse"])
            ],
            title=title,
            notes=[counts],
            noun="pair",
            ends=("most alike", "least alike"),
        ),
    )
    # for a single pair, a second map would only repeat the curves
    matrices = [METRICS["cosine"], *([METRICS["cosine_z"]] if len(labels) > 1 else [])]
    for metric in matrices:
        by_pair = values(metric, "aligned")
        yield NamedFigure(
            f"pairs_by_layer_{metric.name}.png",
            f"Pairs by layers: {metric.meaning}, aligned view.",
            plots.plot_matrix(
                list(by_pair.values()),
                list(by_pair),
                comparison.layers,
                metric=metric,
                title=title,
                notes=[f"{metric.axis_label}; view: aligned", counts],
                noun="pair",
            ),
        )


def neuron_figures(
    comparison: Comparison, activations: Activations[list[Floats]], baseline: Path
) -> Iterator[NamedFigure]:
    """Yield the figures neuron by neuron, without those that would be empty."""
    pairs = comparison.text_pairs
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
        for index, ((a, b), label) in enumerate(pair_labels(pairs[:_MOST_DRAWN]).items()):
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
