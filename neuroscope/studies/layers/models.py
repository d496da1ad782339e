"""Study of layers in several models: what differs between the models."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import Curve, Panel, plot_curves
from neuroscope.reporting.tables import Column, Section, Table
from neuroscope.studies.layers.experiment import LayersExperiment
from neuroscope.studies.layers.result import METRICS, LayersResult, measured
from neuroscope.studies.layers.tables import explanation, summary_columns
from neuroscope.studies.overview import Overview, depth_notes, differences, same_depth
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
    "label_accuracy": "accuracy of the probe for the label",
    "token_accuracy": "accuracy of the probe for the token",
    "anisotropy": "anisotropy",
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
    tables = [
        _table(rows, str(model), label) for model, rows in changes.groupby("model", sort=False)
    ]
    return Overview(
        findings=Findings(_headline(changes), tables, depth_notes(subjects)),
        figures=_figures(by_subject),
        frames={"layers": everything, "differences": changes},
    )


def _headline(changes: "pd.DataFrame") -> str:
    """Return a sentence on where a model differs most from the reference."""
    metric = next(name for name in _NAMES if changes[name].notna().any())
    most = changes.iloc[int(np.nanargmax(changes[metric].abs()))]
    return (
        f"The {_NAMES[metric]} differs most at layer {most.layer} of {most.model}:"
        f" {most[f'{metric}_model']:.3f}, in {most.reference} {most[f'{metric}_reference']:.3f}."
    )


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
