"""Comparison of the same prompts in several models: what differs between the models."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import Curve, Panel, plot_curves
from neuroscope.reporting.tables import Column, Section, Table
from neuroscope.studies.compare.experiment import CompareExperiment
from neuroscope.studies.compare.result import (
    LEADING,
    METRICS,
    MOST_PAIRS,
    VIEW_NAMES,
    Comparison,
    mean_over_pairs,
)
from neuroscope.studies.compare.tables import MOST_LAYERS, shown_layers
from neuroscope.studies.overview import Overview, depth_notes, differences, same_depth
from neuroscope.studies.study import OVERVIEW_FIGURE, Findings
from neuroscope.studies.subjects import Subject

if TYPE_CHECKING:
    import pandas as pd

_DRAWN = (LEADING, "cosine", "mse")
_KEYS = ("a", "b", "view")


def compare_models(
    experiment: CompareExperiment, subjects: Sequence[Subject], results: Sequence[Comparison]
) -> Overview:
    """Return what differs between the models: curves, and differences per pair and layer."""
    import pandas as pd

    by_subject = dict(zip(subjects, results, strict=True))
    frames = {subject: result.to_frame() for subject, result in by_subject.items()}
    changes = differences(frames, _KEYS, list(METRICS))
    labels = results[0].pair_labels
    changes.insert(4, "pair", [labels[pair] for pair in zip(changes.a, changes.b, strict=True)])
    everything = pd.concat(frame.assign(model=subject.label) for subject, frame in frames.items())
    spans = changes[(changes["view"] == "span") & changes[LEADING].notna()]
    is_recorded = results[0].run_id is not None
    tables = [
        _table(rows, str(model), is_recorded=is_recorded)
        for model, rows in spans.groupby("model", sort=False)
    ]
    return Overview(
        findings=Findings(_headline(spans), tables, depth_notes(subjects)),
        figures=_figures(by_subject),
        frames={"compare": everything, "differences": changes},
    )


def _headline(spans: "pd.DataFrame") -> str:
    """Return a sentence on how much each model differs from the reference, and where most."""
    if spans.empty:
        return "No pair has replaced words to compare."
    means = spans[LEADING].abs().groupby(spans["model"], sort=False).mean()
    ranked = means.sort_values(ascending=False, kind="stable")
    parts = [
        f"{model} differs from {spans.reference.iloc[0]} by {mean:.3f} on average"
        for model, mean in ranked.items()
    ]
    most = spans.iloc[int(np.nanargmax(spans[LEADING].abs()))]
    return (
        f"Standardised cosine of the replaced words: {', '.join(parts)}; most for {most.pair} at"
        f" layer {most.layer} of {most.model} ({most[f'{LEADING}_model']:.2f}, in {most.reference}"
        f" {most[f'{LEADING}_reference']:.2f})."
    )


def _table(spans: "pd.DataFrame", model: str, *, is_recorded: bool) -> Table:
    """Return the differences of one model from the reference, a row per pair, largest first.

    The others are in a file of the run, if the results are recorded.
    """
    wide = spans.pivot(index="pair", columns="layer", values=LEADING)
    largest = wide.abs().max(axis=1).sort_values(ascending=False, kind="stable").index
    layers = shown_layers(sorted(set(spans["layer"])), (), most=MOST_LAYERS - 1)
    shown = wide.loc[largest[:MOST_PAIRS]]
    at = shown.abs().idxmax(axis=1)
    rows = [
        [pair, float(shown.loc[pair, at[pair]]), int(at[pair]), *map(float, row)]
        for pair, row in zip(shown.index, shown[layers].to_numpy(), strict=True)
    ]
    omitted = f"These {MOST_PAIRS} of {len(wide):,} pairs differ most"
    omitted += "; all are in tables/differences.csv of the run." if is_recorded else "."
    return Table(
        f"{model} minus {spans.reference.iloc[0]}: standardised cosine of the replaced words",
        [
            *(Column("pair"), Column("largest", digits=3), Column("at layer")),
            *(Column(f"layer {layer}", digits=3) for layer in layers),
        ],
        [Section("", rows)],
        [omitted] if len(wide) > MOST_PAIRS else [],
    )


def _figures(results: Mapping[Subject, Comparison]) -> Iterator[NamedFigure]:
    """Yield the figure in which the models are overlaid: means over the pairs, by layer."""

    def curves(metric: str, view: str) -> dict[str, Curve]:
        frames = {subject: result.values(metric, view) for subject, result in results.items()}
        return {
            subject.label: Curve(
                subject.layers,
                mean_over_pairs(values),
                model_layers=subject.checkpoint.layer_count,
            )
            for subject, values in frames.items()
        }

    first = next(iter(results.values()))
    yield NamedFigure(
        Path(OVERVIEW_FIGURE).name,
        "The models overlaid: each curve is the mean over the pairs of prompts.",
        plot_curves(
            [
                [
                    Panel(METRICS[metric], curves(metric, view), name if metric == LEADING else "")
                    for view, name in VIEW_NAMES.items()
                ]
                for metric in _DRAWN
            ],
            title=f"{len(results)} models · {first.component}",
            notes=[f"mean over {len(first.pairs):,} pairs of prompts"],
            x_axis="layer" if same_depth(results) else "depth",
            noun="model",
        ),
    )
