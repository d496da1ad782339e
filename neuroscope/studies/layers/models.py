"""Study of layers in several models: what differs between the models."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import Curve, Panel, plot_curves
from neuroscope.reporting.run import Point
from neuroscope.reporting.tables import Column, Section, Table
from neuroscope.studies.layers.experiment import LayersExperiment
from neuroscope.studies.layers.result import METRICS, LayersResult, measured
from neuroscope.studies.layers.tables import explanation, summary_columns
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

_SHOWN = (
    *("label_accuracy", "token_accuracy", "cka_next"),
    *("anisotropy", "effective_rank", "curvature"),
)
"""Metrics of the panels and of the table."""
_NAMES = {
    "label_accuracy": "accuracies of the probe for the label",
    "token_accuracy": "accuracies of the probe for the token",
    "anisotropy": "anisotropies",
}
"""Metrics of the headline, of which the first that is measured is used, and their names."""


def compare_models(
    experiment: LayersExperiment, subjects: Sequence[Subject], results: Sequence[LayersResult]
) -> Overview:
    """Return what differs between the models: curves, and differences per layer."""
    import pandas as pd

    by_subject = dict(zip(subjects, results, strict=True))
    frames = {subject: result.to_frame() for subject, result in by_subject.items()}
    changes = differences(frames, (), list(METRICS))
    everything = pd.concat(frame.assign(model=subject.label) for subject, frame in frames.items())
    label = results[0].baselines.label
    leading = _leading(changes)
    tables = [
        _table(changes[changes["model"] == model], str(model), label)
        for model in models_by_difference(changes, leading).index
    ]
    headline = overview_headline(changes, leading, _NAMES[leading], digits=3)
    return Overview(
        findings=Findings(headline, tables, depth_notes(subjects)),
        figures=_figures(by_subject),
        frames={"layers": everything, "differences": changes},
        meaning=f"The headline is about this metric: {METRICS[leading].meaning}. The tables show"
        " the value of each metric in a model minus that in the first model, layer by layer.",
    )


def difference(results: Mapping[Subject, LayersResult]) -> Difference:
    """Return how much the second of two models differs from the first.

    The metrics are absolute differences per layer.
    """
    reference, _ = results
    frames = {subject: result.to_frame() for subject, result in results.items()}
    changes = differences(frames, (), list(_SHOWN))
    points = [
        Point(f"difference/{name}", size, layer)
        for name in _SHOWN
        for layer, size in zip(changes["layer"], changes[name].abs(), strict=True)
        if not math.isnan(size)
    ]
    leading = _leading(changes)
    mean = float(changes[leading].abs().mean())
    return Difference(
        [*points, Point(f"summary/{leading}_difference", mean)],
        f"Differs from {reference.label} by {mean:.3f} on average ({_NAMES[leading]}).",
    )


def _leading(changes: "pd.DataFrame") -> str:
    """Return the metric of the headline."""
    return next(name for name in _NAMES if changes[name].notna().any())


def _table(changes: "pd.DataFrame", model: str, label: str) -> Table:
    """Return the differences of one model from the reference, a row per layer."""
    shown = [name for name in _SHOWN if changes[name].notna().any()]
    rows = changes[["layer", *shown]].astype(object).to_numpy().tolist()
    columns = summary_columns(shown, label)
    return Table(
        f"{model} minus {changes.reference.iloc[0]}",
        [Column("layer"), *columns.values()],
        [Section(explanation(columns), rows)],
    )


def _figures(results: Mapping[Subject, LayersResult]) -> Iterator[NamedFigure]:
    """Yield the figure in which the models are overlaid."""

    def panel(name: str) -> Panel:
        curves = {
            subject.label: Curve(
                result.layers, result.column(name), model_layers=subject.checkpoint.layer_count
            )
            for subject, result in results.items()
        }
        return Panel(METRICS[name], curves)

    first = next(iter(results.values()))
    shown = [
        name for name in _SHOWN if any(measured(name, result.rows) for result in results.values())
    ]
    yield NamedFigure(
        Path(OVERVIEW_FIGURE).name,
        "The models overlaid.",
        plot_curves(
            [
                [panel(name) for name in shown[start : start + 3]]
                for start in range(0, len(shown), 3)
            ],
            title=f"{len(results)} models · {first.component}",
            notes=[f"{first.prompts:,} prompts"],
            x_axis="layer" if same_depth(results) else "depth",
            noun="model",
        ),
    )
