"""Outputs of a comparison: metrics, tables, figures and reports."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroscope.align import VIEWS
from neuroscope.reporting.run import Point, metric_names
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations
from neuroscope.studies.compare.experiment import CompareExperiment
from neuroscope.studies.compare.extraction import Extracted
from neuroscope.studies.compare.figures import layer_figures, neuron_figures, omitted_note
from neuroscope.studies.compare.published import published_checks
from neuroscope.studies.compare.result import (
    LEADING,
    METRICS,
    MOST_PAIRS,
    Comparison,
    mean_over_pairs,
)
from neuroscope.studies.compare.tables import layers_table, summary_table
from neuroscope.studies.compare.text import to_text
from neuroscope.studies.run_folder import RunFolder
from neuroscope.studies.subjects import Subject, fingerprints_of


def metric_points(comparison: Comparison) -> list[Point]:
    """Return the comparison as MLflow metrics whose step is the layer, and summary scalars.

    Each metric in each view is a mean over the pairs. Up to `MOST_PAIRS` pairs have a metric of
    their own, the standardised cosine of the replaced words; the values of more are in tables.
    """
    points: list[Point] = []
    for view, metric in itertools.product(VIEWS, METRICS):
        means = mean_over_pairs(comparison.values(metric, view))
        points += _curve(f"{view}/{metric}", comparison.layers, means)
    spans = comparison.values(LEADING, "span")
    if 1 < len(spans) <= MOST_PAIRS:
        for name, values in zip(metric_names(comparison.labels), spans, strict=True):
            points += _curve(f"pairs/{name}", comparison.layers, values)
    return points + _summary(comparison.layers, spans)


def write_outputs(
    experiment: CompareExperiment,
    subject: Subject,
    extracted: Extracted,
    comparison: Comparison,
    links: Mapping[str, str],
    path: Path,
) -> None:
    """Write all files of one model's run: reports, tables, figures, provenance, activations.

    Args:
        experiment: experiment that was run.
        subject: model with the sites that were read.
        extracted: what the extraction has stored.
        comparison: result in this model.
        links: name -> address of the links in the report.
        path: folder that receives the files, under the names that they have in the run.
    """
    folder, prompts = RunFolder(path), experiment.prompt_set
    focus = [Site(comparison.component, layer) for layer in comparison.focus]
    read = read_activations(extracted.activations, focus)
    folder.experiment(experiment, fingerprints_of(experiment, [subject]))
    folder.provenance(read.provenance)
    folder.table("compare", comparison.rows)
    folder.table("pairs", comparison.pairs)
    folder.prompts(prompts)
    folder.tokens(prompts, read.tokens)
    folder.activations(extracted.activations)
    figures = folder.figures(
        itertools.chain(
            layer_figures(comparison), neuron_figures(comparison, read, extracted.baseline)
        )
    )
    tokens = dict(zip(read.prompts.texts, read.tokens, strict=True))
    published = published_checks(experiment.published, comparison)
    text = to_text(comparison, experiment.note, tokens, published)
    (path / "report.txt").write_text(text, encoding="utf-8")
    few = len(comparison.pairs) <= MOST_PAIRS
    folder.report(
        ("neuroscope.studies.compare", "page.html.j2"),
        f"{experiment.name}: {subject.label}, {comparison.component}",
        headline=comparison.headline,
        note=experiment.note,
        warnings=comparison.notes,
        provenance=read.provenance.to_dict(),
        links=links,
        component=comparison.component,
        comparison=comparison,
        labels=comparison.pair_labels,
        summary=summary_table(comparison),
        layers={layer: layers_table(comparison, [layer]) for layer in comparison.layers if few},
        tokens=tokens,
        figures=figures,
        causal=subject.checkpoint.architecture.causal,
        published=published,
        omitted=omitted_note(comparison, read),
    )


def _curve(metric: str, layers: Sequence[int], values: NDArray[np.float64]) -> list[Point]:
    """Return the values of a metric by layer, without those that are missing."""
    return [
        Point(metric, value, layer)
        for layer, value in zip(layers, values.tolist(), strict=True)
        if not math.isnan(value)
    ]


def _summary(layers: Sequence[int], spans: NDArray[np.float64]) -> list[Point]:
    """Return the scalars that MLflow's table of runs shows: mean over layers, and least value.

    The least value and its layer are those of the headline.
    """
    if not np.isfinite(spans).any():
        return []
    least = int(np.nanargmin(spans))
    return [
        Point(f"summary/span_{LEADING}_mean", float(np.nanmean(mean_over_pairs(spans)))),
        Point(f"summary/span_{LEADING}_min", float(spans.flat[least])),
        Point(f"summary/span_{LEADING}_min_layer", layers[least % len(layers)]),
    ]
