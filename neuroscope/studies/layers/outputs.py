"""Outputs of a study of layers: metrics, tables, figures and report."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from neuroscope.reporting.run import Point
from neuroscope.storage.activation_store import read_parts
from neuroscope.storage.manifest import read_manifest
from neuroscope.studies.layers.experiment import LayersExperiment
from neuroscope.studies.layers.figures import layers_figures
from neuroscope.studies.layers.measures import Extracted
from neuroscope.studies.layers.result import METRICS, LayersResult
from neuroscope.studies.layers.tables import metrics_table, summary_table
from neuroscope.studies.run_folder import RunFolder
from neuroscope.studies.subjects import Subject, fingerprints_of

_UNCHARTED = ("_low", "_high", "_selectivity", "entropy", "outlier_share")
"""Ends of names of metrics without charts: ends of intervals, and what other charts show."""
_CHARTED = [name for name in METRICS if not name.endswith(_UNCHARTED)]
_BY_DEPTH = (
    *("label_accuracy", "token_accuracy", "cka_next", "norm", "anisotropy", "outlier_energy"),
    *("effective_rank", "curvature", "cosine", "cosine_z"),
)
"""Metrics with a second chart, in which models of different depth can be overlaid."""


def metric_points(result: LayersResult) -> list[Point]:
    """Return the result as MLflow metrics whose step is the layer; some also by depth in %."""
    points = []
    for name in _CHARTED:
        for row in result.rows:
            value = getattr(row, name)
            if math.isnan(value):
                continue
            points.append(Point(f"layer/{name}", value, row.layer))
            if name in _BY_DEPTH:
                points.append(Point(f"depth/{name}", value, round(row.depth)))
    return points + _summary(result)


def _summary(result: LayersResult) -> list[Point]:
    """Return the scalars that MLflow's table of runs shows."""
    points = []
    for kind in ("label", "token"):
        accuracies = result.column(f"{kind}_accuracy")
        if any(not math.isnan(value) for value in accuracies):
            best = max(range(len(accuracies)), key=lambda index: accuracies[index])
            points.append(Point(f"summary/{kind}_best", accuracies[best]))
            points.append(Point(f"summary/{kind}_best_layer", result.layers[best]))
    if not math.isnan(result.baselines.label_tokens):
        points.append(Point("summary/label_bag_of_tokens", result.baselines.label_tokens))
    return points


def write_outputs(
    experiment: LayersExperiment,
    subject: Subject,
    extracted: Extracted,
    result: LayersResult,
    links: Mapping[str, str],
    path: Path,
) -> None:
    """Write all files of one model's run.

    Args:
        experiment: experiment that was run.
        subject: model with the sites that were read.
        extracted: what the extraction has stored.
        result: result in this model.
        links: name -> address of the links in the report.
        path: folder that receives the files, under the names that they have in the run.
    """
    import pandas as pd

    folder = RunFolder(path)
    activations = extracted.activations
    manifest = read_manifest(activations)
    first = next(read_parts(activations, []))
    folder.experiment(experiment, fingerprints_of(experiment, [subject]))
    folder.provenance(manifest.provenance)
    folder.prompts(first.prompts)
    folder.tokens(first.prompts, first.tokens)
    folder.table("layers", result.rows)
    names = [f"{result.component}.{layer}" for layer in result.layers]
    folder.table("cka", pd.DataFrame(result.cka, index=names, columns=names).reset_index(names=""))
    folder.activations(activations)
    figures = folder.figures(layers_figures(result))
    folder.report(
        ("neuroscope.studies.layers", "page.html.j2"),
        f"{experiment.name}: {subject.label}, {result.component}",
        headline=capitalised(result.headline),
        note=experiment.note,
        warnings=result.notes,
        provenance=manifest.provenance.to_dict(),
        links=links,
        component=result.component,
        summary=replace(summary_table(result), notes=()),  # the page begins with it
        every=metrics_table(result),
        metrics=METRICS,
        result=result,
        figures=figures,
    )


def capitalised(sentence: str) -> str:
    """Return a sentence with its first letter capitalised."""
    return sentence[:1].upper() + sentence[1:]
