"""Files and metrics of the run of an atlas."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from neuroscope.provenance import library_versions
from neuroscope.reporting.run import Point
from neuroscope.storage.atlas_file import Atlas
from neuroscope.studies.atlas.building import AtlasFolder
from neuroscope.studies.atlas.cards import strongest_cards
from neuroscope.studies.atlas.experiment import AtlasExperiment
from neuroscope.studies.atlas.figures import atlas_figures
from neuroscope.studies.atlas.find import ATLAS
from neuroscope.studies.atlas.result import METRICS, AtlasResult
from neuroscope.studies.atlas.summary import layer_table, summary_table
from neuroscope.studies.run_folder import RunFolder
from neuroscope.studies.subjects import Subject, fingerprints_of


def metric_points(result: AtlasResult) -> list[Point]:
    """Return the result as MLflow metrics: totals with step = layer, and totals over all layers.

    Values per topic are in the tables of the run, as there may be too many topics for charts.
    """
    points = []
    for layer in result.layers:
        rows = [row for row in result.rows if row.layer == layer]
        values = {
            "selective": sum(row.selective for row in rows),
            "confounded": sum(row.confounded for row in rows),
            "best_auroc": sum(row.best_auroc for row in rows) / len(rows),
        }
        areas = [row.direction_auroc for row in rows if not math.isnan(row.direction_auroc)]
        if areas:
            values["direction_auroc"] = sum(areas) / len(areas)
        points += [Point(f"layer/{name}", value, layer) for name, value in values.items()]
    totals = {
        "selective": sum(row.selective for row in result.topics),
        "confounded": sum(row.confounded for row in result.topics),
        "topics": len(result.topics),
        "not_separable": sum(bool(row.reason) for row in result.topics),
    }
    return points + [Point(f"summary/{name}", value) for name, value in totals.items()]


def write_outputs(
    experiment: AtlasExperiment,
    subject: Subject,
    prepared: AtlasFolder,
    result: AtlasResult,
    links: Mapping[str, str],
    path: Path,
) -> None:
    """Write all files of one model's run.

    Args:
        experiment: experiment that was run.
        subject: model with the sites that were read.
        prepared: files of the atlas.
        result: result in this model.
        links: name -> address of the links in the report.
        path: folder that receives the files, under the names that they have in the run.
    """
    folder = RunFolder(path)
    folder.experiment(experiment, fingerprints_of(experiment, [subject]))
    folder.prompts(experiment.prompt_set)
    folder.table("atlas", result.rows)
    folder.table("topics", result.topics)
    shutil.copy(result.atlas, path / ATLAS)
    with Atlas.open(result.atlas) as atlas:
        cards = strongest_cards(atlas, result)
        settings = atlas.model()
    checkpoint, summary = subject.checkpoint, summary_table(result)
    folder.report(
        ("neuroscope.studies.atlas", "page.html.j2"),
        f"{experiment.name}: {subject.label}, {result.component}",
        headline=result.headline[:1].upper() + result.headline[1:],
        note=experiment.note,
        warnings=result.notes,
        provenance={
            "model": f"{checkpoint.pinned_name} (SHA-256 {checkpoint.fingerprint})",
            "prompts": f"{result.prompts:,} (digest {experiment.prompt_set.digest})",
            "dtype": experiment.dtype,
            "attention": experiment.attention,
            "versions": library_versions(),
            "created": settings["created"],
        },
        links=links,
        component=result.component,
        summary=replace(summary, notes=summary.notes[1:]),  # the page begins with the first
        by_layer=layer_table(result),
        metrics=METRICS,
        settings=settings,
        cards=cards,
        figures=folder.figures(atlas_figures(result)),
    )
