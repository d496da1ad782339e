"""Outputs of a comparison: metrics, tables, figures and reports."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from neuroscope.align import VIEWS
from neuroscope.labels import pair_labels
from neuroscope.reporting.run import Point
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations
from neuroscope.studies.compare.experiment import CompareExperiment
from neuroscope.studies.compare.figures import layer_figures, neuron_figures, omitted_note
from neuroscope.studies.compare.published import published_checks
from neuroscope.studies.compare.result import METRICS, VIEW_MEANINGS, Comparison
from neuroscope.studies.compare.tables import layers_table, summary_table
from neuroscope.studies.compare.text import to_text
from neuroscope.studies.model_runs import Subject, fingerprints_of
from neuroscope.studies.run_folder import RunFolder

_PAIR_METRICS = ("cosine", "mse", "cosine_z")
"""Metrics that are charted pair by pair; all metrics are charted as means over pairs."""


def metric_points(comparison: Comparison) -> list[Point]:
    """Return the comparison as MLflow metrics whose step is the layer, and summary scalars."""
    labels = pair_labels(comparison.text_pairs)
    names = dict(zip(labels, _metric_names(labels.values()), strict=True))
    points: list[Point] = []
    for view, metric in itertools.product(VIEWS, METRICS):
        values: dict[int, list[float]] = {}
        for row in comparison.rows:
            value = getattr(row, metric)
            if row.view != view or math.isnan(value):  # the view contains no word
                continue
            values.setdefault(row.layer, []).append(value)
            if metric in _PAIR_METRICS:
                name = names[row.a, row.b]
                points.append(Point(f"pairs {view} {metric}/{name}", value, row.layer))
        means = {layer: sum(at_layer) / len(at_layer) for layer, at_layer in values.items()}
        points += [Point(f"mean {view}/{metric}", mean, layer) for layer, mean in means.items()]
        points += _summary(f"summary/{view}_{metric}", means)
    return points


def write_outputs(
    experiment: CompareExperiment,
    subject: Subject,
    comparison: Comparison,
    activations: Path,
    baseline: Path,
    links: Mapping[str, str],
    path: Path,
) -> None:
    """Write all files of one model's run: reports, tables, figures, provenance, activations.

    Args:
        experiment: experiment that was run.
        subject: model with the sites that were read.
        comparison: result in this model.
        activations: folder of the activations at token level.
        baseline: file of the model's baseline statistics.
        links: name -> address of the links in the report.
        path: folder that receives the files, under the names that they have in the run.
    """
    folder, prompts = RunFolder(path), experiment.prompt_set
    focus = [Site(comparison.component, layer) for layer in comparison.focus]
    read = read_activations(activations, focus)
    folder.experiment(experiment, fingerprints_of(experiment, subject))
    folder.provenance(read.provenance)
    folder.table("compare", comparison.rows)
    folder.table("pairs", comparison.pairs)
    folder.prompts(prompts, read.tokens)
    folder.activations(activations)
    figures = folder.figures(
        itertools.chain(layer_figures(comparison), neuron_figures(comparison, read, baseline))
    )
    tokens = dict(zip(read.prompts.texts, read.tokens, strict=True))
    published = published_checks(experiment.published, comparison)
    text = to_text(comparison, experiment.note, tokens, published)
    (path / "report.txt").write_text(text, encoding="utf-8")
    folder.report(
        "neuroscope.studies.compare",
        f"{experiment.name}: {subject.label}, {comparison.component}",
        note=experiment.note,
        warnings=comparison.notes,
        provenance=read.provenance,
        links=links,
        comparison=comparison,
        labels=pair_labels(comparison.text_pairs),
        summary=summary_table(experiment, comparison),
        layers={layer: layers_table(comparison, [layer]) for layer in comparison.layers},
        view_meanings=VIEW_MEANINGS,
        causal=subject.checkpoint.architecture.causal,
        tokens=tokens,
        published=published,
        figures=figures,
        omitted=omitted_note(comparison, read),
    )


def _summary(name: str, means: Mapping[int, float]) -> list[Point]:
    """Return the mean over layers, the smallest and largest value, and their layers."""
    if not means:
        return []
    least, greatest = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    return [
        Point(f"{name}_mean", sum(means.values()) / len(means)),
        Point(f"{name}_min", means[least]),
        Point(f"{name}_min_layer", least),
        Point(f"{name}_max", means[greatest]),
        Point(f"{name}_max_layer", greatest),
    ]


def _metric_names(labels: Iterable[str]) -> list[str]:
    """Return a distinct name per label that MLflow accepts as the end of a metric's name."""
    names: list[str] = []
    for label in labels:
        name = re.sub(r"[^\w. :-]", "_", label)
        while name in names:
            name += "_"
        names.append(name)
    return names
