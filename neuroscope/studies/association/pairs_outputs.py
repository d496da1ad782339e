"""Run of scored pairs in MLflow: params, metrics, tables, figure and report."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from neuroscope.extraction.models import Model
from neuroscope.labels import counted, model_label
from neuroscope.prompts import Prompt, PromptPair, PromptSet
from neuroscope.provenance import library_versions
from neuroscope.reporting.logged_models import FINGERPRINT_TAG, ModelEntry
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.run import Point
from neuroscope.reporting.run_reader import PROMPTS_TAG, REPORT
from neuroscope.reporting.tables import Column, Section, Table
from neuroscope.reporting.tracking import Tracker
from neuroscope.studies.association.pairs_result import (
    CAVEAT,
    MEASURES,
    PairsResult,
    PairsRow,
    pairs_table,
)
from neuroscope.studies.association.pairs_settings import PairsSettings
from neuroscope.studies.model_runs import run_files
from neuroscope.studies.run_folder import RunFolder

ANALYSIS_TAG = "neuroscope.analysis"
"""Tag that tells runs of pairs from those of the study."""
PAIRS = "pairs"
FIGURE = "pairs.png"
_MOST_ROWS = 30  # of the figure
_EXAMPLES = 3
_METRICS = (
    "score",
    "low",
    "high",
    "control_score",
    "control_low",
    "control_high",
    "n",
    "ties",
    "p",
)


def record_pairs(
    result: PairsResult,
    pairs: Sequence[PromptPair],
    model: Model,
    settings: PairsSettings,
    tracker: Tracker,
    started: datetime.datetime,
) -> str:
    """Record scored pairs in an MLflow run of their own, and return its id.

    Args:
        result: result in the model.
        pairs: all pairs of the file.
        model: model that was read.
        settings: file and other settings.
        tracker: open tracker.
        started: start of the experiment, which the runs of all its models share.

    Raises:
        TrackingError: MLflow cannot be reached or refuses the request.
        ResourceError: the disk is full.
    """
    checkpoint = model.checkpoint
    prompts = _as_prompts(pairs, settings)
    label = model_label(checkpoint.name)
    tags = {
        ANALYSIS_TAG: PAIRS,
        "neuroscope.model": checkpoint.name,
        "neuroscope.experiment": settings.experiment,
        FINGERPRINT_TAG: checkpoint.fingerprint,
        PROMPTS_TAG: prompts.digest,
    }
    with tracker.run(
        "association",
        f"{label} {started:%m-%d %H:%M} pairs {settings.experiment}",
        group=f"{settings.experiment} {started:%Y-%m-%d %H:%M:%S}",
        source="pairs association",
        tags=tags,
        note=settings.note,
    ) as run:
        run.log_params(_params(result, model, settings))
        run.log_prompts(prompts, settings.file.stem, "tables/prompts.csv")
        params = {"model": checkpoint.pinned_name, "architecture": checkpoint.architecture.family}
        run.log_models([ModelEntry(label, checkpoint.fingerprint, params)])
        run.log_points([Point(name, getattr(result.overall, name)) for name in _METRICS])
        with run_files(run) as path:
            _write(RunFolder(path), result, prompts, model, settings, run.links)
        run.describe(result.headline, REPORT)
        return run.id


def _as_prompts(pairs: Sequence[PromptPair], settings: PairsSettings) -> PromptSet:
    """Return the pairs as prompts, of which the second prompt is a label."""
    return PromptSet(
        tuple(
            Prompt(pair.id, pair.a, {settings.b_column: pair.b, **pair.labels}, pair.position)
            for pair in pairs
        )
    )


def _params(result: PairsResult, model: Model, settings: PairsSettings) -> dict[str, Any]:
    """Return the settings of a run as flat params."""
    names = ("a_column", "b_column", "seed", "truncate", "device")
    return {
        "model": model_label(model.name),
        "model_name": model.name,
        "file": str(settings.file),
        **{name: getattr(settings, name) for name in names},
        "dtype": model.dtype,
        "attention": model.attention,
        "measure": result.measure,
        "pairs": result.overall.n,
    }


def _write(
    folder: RunFolder,
    result: PairsResult,
    prompts: PromptSet,
    model: Model,
    settings: PairsSettings,
    links: Mapping[str, str],
) -> None:
    """Write all files of a run."""
    checkpoint = model.checkpoint
    folder.prompts(prompts)
    folder.table("pairs", result.to_frame())
    folder.table("labels", [result.overall, *result.rows])
    folder.report(
        ("neuroscope.studies.association", "pairs_page.html.j2"),
        f"{settings.experiment}: {model_label(model.name)}, pairs of prompts",
        headline=result.headline,
        note=settings.note,
        warnings=[f"{note[:1].upper()}{note[1:]}" for note in result.notes if note != CAVEAT],
        provenance={
            "model": f"{checkpoint.pinned_name} (SHA-256 {checkpoint.fingerprint})",
            "pairs": f"{len(prompts):,} in {settings.file.name} (digest {prompts.digest})",
            "measure": result.measure,
            "seed": settings.seed,
            "dtype": model.dtype,
            "attention": model.attention,
            "versions": library_versions(),
        },
        links=links,
        result=result,
        measure=MEASURES[result.measure],
        caveat=CAVEAT,
        table=pairs_table(result, ()),
        examples=_examples(result),
        figures=folder.figures(pairs_figures(result)),
    )


def pairs_figures(result: PairsResult) -> Iterator[NamedFigure]:
    """Yield the figure of a result: the score of all pairs and by label, beside the controls."""
    from neuroscope.reporting.plots import plot_intervals

    largest = sorted(result.rows, key=lambda row: -row.n)[:_MOST_ROWS]
    rows = [result.overall, *(row for row in result.rows if row in largest)]
    left_out = len(result.rows) + 1 - len(rows)
    notes = [
        f"{model_label(result.model)}: {MEASURES[result.measure]}",
        "bars: 95 % intervals (Wilson)",
        *([f"{counted(left_out, 'value')} with the fewest pairs not shown"] if left_out else []),
    ]
    axis = f"share of pairs in which {result.first} is likelier (%)"
    figure = plot_intervals(
        [_name(row) for row in rows],
        {
            "pairs": [(row.score, row.low, row.high) for row in rows],
            "control pairs, with words of similar frequency": [
                (row.control_score, row.control_low, row.control_high) for row in rows
            ],
        },
        metric=Metric("score", "score", "share of pairs", axis=axis),
        title="Which prompt of a pair is likelier?",
        notes=notes,
        reference=("neither more often", 50.0),
    )
    caption = (
        f"Share of pairs in which {result.first} is likelier, with 95 % intervals, beside the same"
        " in control pairs."
    )
    yield NamedFigure(FIGURE, caption, figure)


def _name(row: PairsRow) -> str:
    """Return the name of a row of the figure."""
    return f"{row.label}: {row.value} ({row.n:,})" if row.label else f"all pairs ({row.n:,})"


def _examples(result: PairsResult) -> Table:
    """Return the first pairs with their control pairs as a table."""
    columns = [
        Column("pair"),
        Column("prompt"),
        Column("log-likelihood", digits=2),
        Column("prompt", "control pair"),
        Column("log-likelihood", "control pair", digits=2),
    ]
    rows = []
    for scored in result.pairs[:_EXAMPLES]:
        for side in ("a", "b"):
            text, own = getattr(scored.pair, side), getattr(scored, f"log_likelihood_{side}")
            control = getattr(scored, f"control_{side}")
            value = getattr(scored, f"control_log_likelihood_{side}")
            rows.append([f"{scored.pair.id}, {side}", text, own, control, value])
    return Table("", columns, [Section("", rows)])
