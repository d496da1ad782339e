"""Files and metrics of a run of drift."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from neuroscope.json_text import json_text
from neuroscope.provenance import library_versions
from neuroscope.reporting.run import Point
from neuroscope.stats.divergence import KLSummary
from neuroscope.studies.drift.check import Stored, deciding_sites
from neuroscope.studies.drift.experiment import DriftExperiment
from neuroscope.studies.drift.explanation_tables import explanation_parts
from neuroscope.studies.drift.figures import drift_figures, neuron_figure
from neuroscope.studies.drift.measures import topics_of
from neuroscope.studies.drift.result import DriftResult
from neuroscope.studies.drift.subjects import Pair
from neuroscope.studies.drift.tables import (
    behaviour_table,
    decision_table,
    layer_table,
    readers_table,
)
from neuroscope.studies.run_folder import RunFolder
from neuroscope.studies.subjects import fingerprints_of

BASE_TAG = "neuroscope.base_sha"
"""Tag with the digest of the base's files."""
VERDICT_TAG = "neuroscope.drift.verdict"
"""Tag with the verdict on the candidate."""
DOCUMENT = "drift.json"
"""Path of the artifact with everything that a check has found."""
ASSOCIATIONS = "associations.yaml"
"""Path of the artifact with the associations that were measured."""
_CURVES = ("one_minus_r", "local", "rms_z", "cka", "neighbours")


def metric_points(result: DriftResult) -> list[Point]:
    """Return the result as MLflow metrics: curves with step = layer, and summary scalars."""
    points = [
        Point(f"{row.component}/{name}", getattr(row, name), row.layer)
        for row in result.sites
        for name in _CURVES
        if not math.isnan(getattr(row, name))
    ]
    decision, behaviour = result.decision, result.behaviour
    summary = {name: getattr(decision, name) for name in ("statistic", "lower", "upper", "p_value")}
    summary |= {"margin": decision.margin, "replicates": decision.replicates}
    if isinstance(behaviour, KLSummary):
        summary |= {"kl": behaviour.mean, "same_top": behaviour.same_top}
    elif behaviour:
        summary |= {"final_change": behaviour.mean}
    for reader in result.readers:
        if reader.activations == "candidate":
            summary |= {"recall": reader.recall, "probe_accuracy": reader.accuracy}
    points += [
        Point(f"drift/{name}", value) for name, value in summary.items() if not math.isnan(value)
    ]
    return points


def write_outputs(
    experiment: DriftExperiment,
    pair: Pair,
    stored: Stored | None,
    result: DriftResult,
    links: Mapping[str, str],
    path: Path,
) -> None:
    """Write all files of a run.

    Args:
        experiment: experiment that was run.
        pair: base and candidate.
        stored: activations of both; None if the files are equal.
        result: result of the check.
        links: name -> address of the links in the report.
        path: folder that receives the files, under the names that they have in the run.
    """
    folder, subjects = RunFolder(path), [pair.base, pair.candidate]
    copy = experiment.model_copy(update=_copied_associations(experiment, path))
    folder.experiment(copy, fingerprints_of(experiment, subjects))
    folder.prompts(experiment.prompt_set)
    (path / DOCUMENT).write_text(json_text(result.to_dict()), encoding="utf-8")
    figures = [*drift_figures(result)]
    if stored is not None:
        folder.table("layers", result.sites)
        if result.associations:
            folder.table("associations", result.associations)
        own, other = stored.values(pair, deciding_sites(experiment, pair.base))
        if pair.same_shape:
            figures += neuron_figure(result, own, other, topics_of(experiment))
    folder.report(
        ("neuroscope.studies.drift", "page.html.j2"),
        f"{experiment.name}: {pair.candidate.label} against {pair.base.label}",
        headline=result.headline,
        note=experiment.note,
        warnings=result.notes,
        provenance={
            **{
                role: f"{subject.checkpoint.pinned_name} (SHA-256 {subject.checkpoint.fingerprint})"
                for role, subject in zip(("base", "candidate"), subjects, strict=True)
            },
            "prompts": f"{result.prompts:,} (digest {experiment.prompt_set.digest})",
            "versions": library_versions(),
        },
        links=links,
        result=result,
        decision=decision_table(result),
        has_local=any(row.local == row.local for row in result.sites),
        layers=layer_table(result),
        behaviour=behaviour_table(result),
        readers=readers_table(result),
        explanation=explanation_parts(result),
        figures={figure.name: figure for figure in folder.figures(figures)},
    )


def _copied_associations(experiment: DriftExperiment, path: Path) -> dict[str, str]:
    """Copy the file of associations to a run, and return the key that names the copy."""
    if not experiment.associations:
        return {}
    shutil.copyfile(experiment.associations, path / ASSOCIATIONS)
    return {"associations": ASSOCIATIONS}
