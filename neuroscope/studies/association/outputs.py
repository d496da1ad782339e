"""Outputs of a study of associations: metrics, tables, figures and report."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from neuroscope.reporting.run import Point, metric_names
from neuroscope.reporting.tables import Table
from neuroscope.storage.activation_store import read_activations
from neuroscope.studies.association.experiment import AssociationExperiment
from neuroscope.studies.association.extraction import Extracted
from neuroscope.studies.association.figures import association_figures
from neuroscope.studies.association.headline import leading_rows, strongest
from neuroscope.studies.association.result import METRICS, SHARE, AssociationResult
from neuroscope.studies.association.tables import (
    contrasts_table,
    established_table,
    neurons_table,
    predictions_table,
    summary_table,
)
from neuroscope.studies.run_folder import RunFolder
from neuroscope.studies.subjects import Subject, fingerprints_of

_MOST_PAIRS = 4
"""Number of pairs of groups that have charts: the largest ones."""
_MOST_CONTRASTS = 12
"""Number of contrasts of roles that have charts: the largest ones; those of more are in tables."""
_MOST_LISTED = 200  # rows of the tables in the report; the CSV files hold all
_MOST_NEURONS = 20


def metric_points(result: AssociationResult) -> list[Point]:
    """Return the result as MLflow metrics whose step is the layer, and summary scalars."""
    charted = result.largest_pairs(_MOST_PAIRS)
    labels = [" - ".join(pair) for pair in charted]
    names = dict(zip(charted, metric_names(labels), strict=True))
    points: list[Point] = []
    for row in result.pairs:
        if name := names.get((row.group_a, row.group_b)):
            measures = ("raw", "controlled", "share") if row.view == "span" else ("controlled",)
            points += [
                Point(f"{row.view}/{name} {measure}", value, row.layer)
                for measure in measures
                if not math.isnan(value := getattr(row, measure))
            ]
    return points + _role_points(result) + _weat_points(result) + _summary(result)


def _role_points(result: AssociationResult) -> list[Point]:
    """Return the controlled contrasts of the words of the roles with the largest ones."""
    charted = result.largest(_MOST_CONTRASTS)
    labels = [f"{role}: {a} - {b}" for role, a, b in charted]
    names = dict(zip(charted, metric_names(labels), strict=True))
    return [
        Point(f"roles/{name}", row.controlled, row.layer)
        for row in result.rows
        if row.view == "span" and (name := names.get((row.role, row.group_a, row.group_b)))
    ]


def _weat_points(result: AssociationResult) -> list[Point]:
    """Return WEAT's effect size of the largest contrasts."""
    charted = result.largest(_MOST_PAIRS)
    names = dict(
        zip(charted, metric_names(f"{role}: {a} - {b}" for role, a, b in charted), strict=True)
    )
    return [
        Point(f"weat/{name}", row.d, row.layer)
        for row in result.established
        if row.measure == "weat"
        and (name := names.get((row.role, row.group_a, row.group_b)))
        and not math.isnan(row.d)
    ]


def _summary(result: AssociationResult) -> list[Point]:
    """Return the scalars that MLflow's table of runs shows, those of the headline among them."""
    leading = leading_rows(result.pairs)
    if not leading:
        return []
    row = strongest(leading, result.rows)
    values = {
        "controlled": row.controlled,
        "raw": row.raw,
        "share": row.share,
        "p_words": row.p_words,
        "layer": row.layer,
        "significant_contrasts": sum(other.significant for other in result.rows),
        "contrasts": len(result.rows),
    }
    return [
        Point(f"summary/{name}", float(value))
        for name, value in values.items()
        if not math.isnan(value)
    ]


def write_outputs(
    experiment: AssociationExperiment,
    subject: Subject,
    extracted: Extracted,
    result: AssociationResult,
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
    folder, read = RunFolder(path), read_activations(extracted.activations, [])
    folder.experiment(experiment, fingerprints_of(experiment, [subject]))
    folder.provenance(read.provenance)
    folder.prompts(experiment.prompt_set)
    folder.tokens(experiment.prompt_set, read.tokens)
    for name, rows in {
        "contrasts": result.rows,
        "pairs": result.pairs,
        "neurons": result.neurons,
        "weat": result.established,
        "predictions": result.predictions,
        "words": result.words,
        "word_pairs": result.word_pairs,
    }.items():
        if rows:
            folder.table(name, rows)
    folder.activations(extracted.activations)
    figures = folder.figures(association_figures(result))
    leading = leading_rows(result.pairs)
    layer = strongest(leading, result.rows).layer if leading else result.layers[-1]
    folder.report(
        ("neuroscope.studies.association", "page.html.j2"),
        f"{experiment.name}: {subject.label}, {result.component}",
        headline=result.headline,
        note=experiment.note,
        warnings=result.notes,
        provenance=read.provenance.to_dict(),
        links=links,
        component=result.component,
        summary=replace(summary_table(result), notes=()),  # the page begins with it
        contrasts=contrasts_table(result.rows[:_MOST_LISTED]),
        contrast_count=len(result.rows),
        predictions=predictions_table(result.predictions) if result.predictions else None,
        neurons=_neurons(result, layer),
        established=established_table(
            [row for row in result.established if row.layer == layer][:_MOST_LISTED]
        ),
        metrics={**METRICS, SHARE.name: SHARE},
        experiment=experiment,
        result=result,
        word_pairs=result.word_pairs[:_MOST_LISTED],
        causal=subject.checkpoint.architecture.causal,
        figures=figures,
    )


def _neurons(result: AssociationResult, layer: int) -> Table:
    """Return the neurons that contribute most at a layer."""
    rows = [row for row in result.neurons if row.layer == layer]
    return neurons_table(sorted(rows, key=lambda row: -abs(row.contribution))[:_MOST_NEURONS])
