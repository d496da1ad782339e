"""Overview of several models: what differs between them, in one report."""

import datetime
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.experiment import ModelsExperiment
from neuroscope.provenance import library_versions
from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.run import Point
from neuroscope.reporting.tables import number
from neuroscope.studies.run_folder import RunFolder
from neuroscope.studies.study import Findings
from neuroscope.studies.subjects import Subject, fingerprints_of

if TYPE_CHECKING:
    import pandas as pd

_QUOTED = 10  # prompts at the beginning of a report


@dataclass(frozen=True)
class Overview:
    """What differs between the models of an experiment, of which the first is the reference."""

    findings: Findings
    """Headline and tables."""
    figures: Iterable[NamedFigure]
    """Figures in which the models are overlaid."""
    frames: "Mapping[str, pd.DataFrame]"
    """Complete tables, by the names of their files."""
    meaning: str
    """Sentences on what the measure of the headline means."""


@dataclass(frozen=True)
class Difference:
    """How much a model differs from the reference: metrics and a sentence for its own run."""

    points: Sequence[Point]
    sentence: str


def write_overview(
    overview_of: Callable[..., Overview],
    experiment: ModelsExperiment,
    subjects: Sequence[Subject],
    results: Sequence[Any],
    links: Mapping[str, str],
    path: Path,
) -> Findings:
    """Write the files of an overview and return its findings.

    Args:
        overview_of: function of the study that returns the overview.
        experiment: experiment that was run.
        subjects: its models.
        results: results in these models, in the same order.
        links: name -> address of the links in the report.
        path: folder that receives the files, under the names that they have in the run.
    """
    overview, folder = overview_of(experiment, subjects, results), RunFolder(path)
    folder.experiment(experiment, fingerprints_of(experiment, subjects))
    findings = overview.findings
    for name, frame in overview.frames.items():
        folder.table(name, frame)
    prompts = experiment.prompt_set
    folder.prompts(prompts)
    models = {subject.label: _identity(subject) for subject in subjects}
    folder.report(
        ("neuroscope.reporting", "overview.html.j2"),
        f"{experiment.name}: {', '.join(models)}, {experiment.component}",
        headline=findings.headline,
        note=experiment.note,
        warnings=findings.notes,
        provenance={
            **models,
            "prompts": f"{len(prompts):,} (digest {prompts.digest})",
            "dtype": experiment.dtype,
            "attention": experiment.attention,
            "versions": library_versions(),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
        links=links,
        component=experiment.component,
        meaning=overview.meaning,
        shown_prompts=[prompt.text for prompt in itertools.islice(prompts, _QUOTED)],
        prompt_count=len(prompts),
        figures=folder.figures(overview.figures),
        tables=findings.tables,
    )
    return findings


def _identity(subject: Subject) -> str:
    """Return the unambiguous name of a model, and the digest of its files."""
    checkpoint = subject.checkpoint
    return f"{checkpoint.pinned_name} (SHA-256 {checkpoint.fingerprint})"


def differences(
    frames: "Mapping[Subject, pd.DataFrame]", keys: Sequence[str], metrics: Sequence[str]
) -> "pd.DataFrame":
    """Return the values in each model minus those in the first, the reference.

    Layers are matched by number, or by relative depth if the models differ in depth: to a layer of
    a model belongs the layer of the reference whose depth, (layer + 1) / layers, is nearest.

    Args:
        frames: tidy rows with a column `layer`, by model.
        keys: columns that identify a row besides the layer, such as the prompts of a pair.
        metrics: columns with values.

    Returns:
        Data frame with the columns `model`, `reference`, `layer`, `reference_layer`, the keys, and
        per metric the difference and, as `<metric>_model` and `<metric>_reference`, both values.
    """
    import pandas as pd

    (reference, base), *others = frames.items()
    parts = []
    for subject, frame in others:
        matches = _matching_layers(subject, reference)
        rows = frame.assign(reference_layer=frame["layer"].map(matches))
        base_rows = base.rename(columns={"layer": "reference_layer"})
        columns = ["reference_layer", *keys]
        both = rows.merge(
            base_rows[[*columns, *metrics]], on=columns, suffixes=("_model", "_reference")
        )
        for metric in metrics:
            both[metric] = both[f"{metric}_model"] - both[f"{metric}_reference"]
        both = both.assign(model=subject.label, reference=reference.label)
        parts.append(both)
    values = [f"{metric}{end}" for metric in metrics for end in ("", "_model", "_reference")]
    order = ["model", "reference", "layer", "reference_layer", *keys, *values]
    return pd.concat(parts, ignore_index=True)[order]


def models_by_difference(changes: "pd.DataFrame", metric: str) -> "pd.Series[float]":
    """Return the mean absolute difference of each model from the reference, largest first.

    Args:
        changes: rows of `differences`.
        metric: column with the difference.
    """
    means = changes[metric].abs().groupby(changes["model"], sort=False).mean()
    return means.sort_values(ascending=False, kind="stable")


def overview_headline(changes: "pd.DataFrame", metric: str, measure: str, digits: int) -> str:
    """Return sentences on the model that differs most, and on the largest difference.

    Args:
        changes: rows of `differences`, with a column `pair` if they have one row per pair.
        metric: column with the difference; at least one value is not NaN.
        measure: name of the metric in the plural, such as "cosines of the replaced words".
        digits: number of decimals of the two values that differ most.
    """
    ranked = models_by_difference(changes, metric).dropna()
    first, others = str(ranked.index[0]), ranked.iloc[1:]
    reference = changes["reference"].iloc[0]
    if not ranked.iloc[0]:
        return f"The {measure} are the same in all models."
    most = "most " if len(others) else ""
    rest = ", ".join(f"{model}: {mean:.3f}" for model, mean in others.items())
    return (
        f"{first} differs {most}from {reference}: the {measure} differ by {ranked.iloc[0]:.3f} on"
        f" average{f' ({rest})' if rest else ''}. {_largest(changes, metric, first, digits)}"
    )


def _largest(changes: "pd.DataFrame", metric: str, subject: str, digits: int) -> str:
    """Return a sentence on the largest difference; it names a model other than the subject."""
    row = changes.iloc[int(np.nanargmax(changes[metric].abs()))]
    pair = f"{row['pair']} at " if "pair" in changes else ""
    model = "" if row["model"] == subject else f" of {row['model']}"
    value, base = (number(row[f"{metric}_{end}"], digits) for end in ("model", "reference"))
    return f"Largest: {pair}layer {row['layer']}{model}, {value} instead of {base}."


def same_depth(subjects: Iterable[Subject]) -> bool:
    """Return whether all models have the same number of layers."""
    return len({subject.checkpoint.layer_count for subject in subjects}) == 1


def depth_notes(subjects: Sequence[Subject]) -> list[str]:
    """Return a sentence on how the layers of models of different depth are matched."""
    if same_depth(subjects):
        return []
    return ["the models differ in depth; their layers are matched by relative depth"]


def _matching_layers(subject: Subject, reference: Subject) -> dict[int, int]:
    """Return the layer of the reference that belongs to each layer of a model."""
    count, base_count = subject.checkpoint.layer_count, reference.checkpoint.layer_count
    return {
        layer: min(
            reference.layers,
            key=lambda other: abs((other + 1) / base_count - (layer + 1) / count),
        )
        for layer in subject.layers
    }
