"""Comparison of the same prompts in several models: what differs between the models."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuroscope.labels import counted
from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import Curve, Panel, plot_curves
from neuroscope.reporting.run import Point
from neuroscope.reporting.tables import Cell, Column, Section, Table
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
from neuroscope.studies.overview import (
    Difference,
    Overview,
    depth_notes,
    differences,
    models_by_difference,
    overview_headline,
    same_depth,
)
from neuroscope.studies.study import OVERVIEW_FIGURE, Findings
from neuroscope.studies.subjects import Subject

if TYPE_CHECKING:
    import pandas as pd

_DRAWN = (LEADING, "cosine", "mse")
_KEYS = ("a", "b", "view")
_MEANING = (
    "The standardised cosine says how alike the patterns of neurons for the replaced words of two"
    " prompts are: 1 is the same pattern, 0 an unrelated one, -1 the opposite one. The tables show"
    " its value in a model minus that in the first model: below 0, the words are less alike there."
)


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
    tables = difference_tables(spans, is_recorded=is_recorded)
    return Overview(
        findings=Findings(_headline(spans), tables, depth_notes(subjects)),
        figures=_figures(by_subject),
        frames={"compare": everything, "differences": changes},
        meaning=_MEANING,
    )


def difference(results: Mapping[Subject, Comparison]) -> Difference:
    """Return how much the second of two models differs from the first.

    The metrics are mean absolute differences of the standardised cosine over the pairs, per layer
    and view.
    """
    reference, _ = results
    frames = {subject: result.to_frame() for subject, result in results.items()}
    changes = differences(frames, _KEYS, [LEADING]).dropna(subset=[LEADING])
    sizes = changes[LEADING].abs()
    means = sizes.groupby([changes["view"], changes["layer"]]).mean().reset_index()
    points = [
        Point(f"difference/{view}_{LEADING}", size, layer)
        for view, layer, size in means.to_numpy().tolist()
    ]
    spans = sizes[changes["view"] == "span"]
    if spans.empty:
        return Difference(points, "")
    mean = float(spans.mean())
    return Difference(
        [*points, Point(f"summary/span_{LEADING}_difference", mean)],
        f"Differs from {reference.label} by {mean:.3f} on average"
        " (standardised cosines of the replaced words).",
    )


def _headline(spans: "pd.DataFrame") -> str:
    """Return which model differs most from the reference, and where."""
    if spans.empty:
        return "No pair has replaced words to compare."
    return overview_headline(spans, LEADING, "standardised cosines of the replaced words", 2)


def difference_tables(spans: "pd.DataFrame", *, is_recorded: bool) -> list[Table]:
    """Return a table per model, largest differences first; all have the same rows.

    Pairs that the tables leave out are in a file of the run, if the results are recorded.
    """
    if spans.empty:
        return []
    sizes = spans[LEADING].abs().groupby(spans["pair"], sort=False).max()
    pairs = list(sizes.sort_values(ascending=False, kind="stable").index)
    omitted = f"These {MOST_PAIRS} of {len(pairs):,} pairs differ most"
    omitted += "; all are in tables/differences.csv of the run." if is_recorded else "."
    notes = [omitted] if len(pairs) > MOST_PAIRS else []
    return [
        _table(spans[spans["model"] == model], str(model), pairs[:MOST_PAIRS], notes)
        for model in models_by_difference(spans, LEADING).index
    ]


def _table(spans: "pd.DataFrame", model: str, pairs: list[str], notes: Sequence[str]) -> Table:
    """Return the differences of one model from the reference, a row per pair."""
    wide = spans.pivot(index="pair", columns="layer", values=LEADING).reindex(index=pairs)
    layers = [int(layer) for layer in wide.columns]
    shown = shown_layers(layers, (), most=MOST_LAYERS - 1)
    rows: list[list[Cell]] = []
    for pair, values in zip(pairs, wide.to_numpy(), strict=True):
        at = int(np.nan_to_num(np.abs(values), nan=-1.0).argmax())
        changes = dict(zip(layers, values.tolist(), strict=True))
        rows.append([pair, float(values[at]), layers[at], *(changes[layer] for layer in shown)])
    return Table(
        f"{model} minus {spans.reference.iloc[0]}: standardised cosine of the replaced words",
        [
            *(Column("pair"), Column("largest", digits=3), Column("at layer")),
            *(Column(f"layer {layer}", digits=3) for layer in shown),
        ],
        [Section("", rows)],
        notes,
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
    pairs, several = f"{counted(len(first.pairs), 'pair')} of prompts", len(first.pairs) > 1
    caption = "The models overlaid: each curve is the mean over the pairs of prompts."
    yield NamedFigure(
        Path(OVERVIEW_FIGURE).name,
        caption if several else "The models overlaid.",
        plot_curves(
            [
                [
                    Panel(METRICS[metric], curves(metric, view), name if metric == LEADING else "")
                    for view, name in VIEW_NAMES.items()
                ]
                for metric in _DRAWN
            ],
            title=f"{len(results)} models · {first.component}",
            notes=[f"mean over {pairs}" if several else pairs],
            x_axis="layer" if same_depth(results) else "depth",
            noun="model",
        ),
    )
