"""Study of associations in several models: what differs between the models."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import Curve, Panel, plot_curves
from neuroscope.reporting.run import Point
from neuroscope.reporting.tables import Column, Section, Table, rows_to_frame
from neuroscope.studies.association.experiment import AssociationExperiment
from neuroscope.studies.association.figures import CONTRAST
from neuroscope.studies.association.result import METRICS, SHARE, AssociationResult, contrast_label
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

_COMPARED = ("raw", "controlled", "share")
_KEYS = ("view", "role", "pair")
_MOST_PANELS = 9
_MEASURE = "controlled contrasts of the words"


def compare_models(
    experiment: AssociationExperiment,
    subjects: Sequence[Subject],
    results: Sequence[AssociationResult],
) -> Overview:
    """Return what differs between the models: curves, and differences of pairs of groups."""
    import pandas as pd

    by_subject = dict(zip(subjects, results, strict=True))
    frames = {subject: _frame(result) for subject, result in by_subject.items()}
    changes = differences(frames, _KEYS, list(_COMPARED))
    spans = changes[changes["view"] == "span"]
    everything = pd.concat(
        result.to_frame().assign(model=subject.label) for subject, result in by_subject.items()
    )
    tables = [
        _table(spans[spans["model"] == model], str(model))
        for model in models_by_difference(spans, "controlled").index
    ]
    return Overview(
        findings=Findings(
            overview_headline(spans, "controlled", _MEASURE, digits=3),
            tables,
            depth_notes(subjects),
        ),
        figures=_figures(by_subject),
        frames={"contrasts": everything, "differences": changes},
        meaning=f"Controlled contrast: {METRICS['controlled'].meaning}; mean over the roles of a"
        " pair of groups. The tables show the value in a model minus that in the first model.",
    )


def difference(results: Mapping[Subject, AssociationResult]) -> Difference:
    """Return how much the second of two models differs from the first.

    The metrics are mean absolute differences over pairs of groups, per layer.
    """
    reference, _ = results
    frames = {subject: _frame(result) for subject, result in results.items()}
    changes = differences(frames, _KEYS, list(_COMPARED))
    spans = changes[changes["view"] == "span"]
    sizes = spans["controlled"].abs().groupby(spans["layer"]).mean()
    mean = float(spans["controlled"].abs().mean())
    points = [
        Point("difference/controlled", size, layer)
        for layer, size in zip(sizes.index.tolist(), sizes.tolist(), strict=True)
        if not math.isnan(size)
    ]
    return Difference(
        [*points, Point("summary/controlled_difference", mean)],
        f"Differs from {reference.label} by {mean:.3f} on average ({_MEASURE}).",
    )


def _frame(result: AssociationResult) -> "pd.DataFrame":
    """Return the rows of pairs of groups, with the name of each pair."""
    return rows_to_frame(result.pairs).assign(pair=[contrast_label(row) for row in result.pairs])


def _table(changes: "pd.DataFrame", model: str) -> Table:
    """Return the differences of one model from the reference, a row per pair and layer."""
    rows = changes[["pair", "layer", *_COMPARED]].astype(object).to_numpy().tolist()
    metrics = [METRICS["raw"], METRICS["controlled"], SHARE]
    columns = [Column("contrast"), Column("layer"), *map(Column.of, metrics)]
    return Table(f"{model} minus {changes.reference.iloc[0]}", columns, [Section("", rows)])


def _figures(results: Mapping[Subject, AssociationResult]) -> Iterator[NamedFigure]:
    """Yield the figure in which the models are overlaid."""
    first = next(iter(results.values()))
    pairs = sorted(
        first.group_pairs,
        key=lambda pair: (
            -max(
                float(np.nanmax(np.abs(result.values("controlled", pair))))
                for result in results.values()
            )
        ),
    )[:_MOST_PANELS]

    def panel(pair: tuple[str, str]) -> Panel:
        curves = {
            subject.label: Curve(
                result.layers,
                result.values("controlled", pair),
                (result.values("low", pair), result.values("high", pair)),
                model_layers=subject.checkpoint.layer_count,
            )
            for subject, result in results.items()
        }
        title = f"{pair[0]} \N{MINUS SIGN} {pair[1]}"
        return Panel(CONTRAST, curves, title, {"no difference": 0.0})

    yield NamedFigure(
        Path(OVERVIEW_FIGURE).name,
        "Controlled contrasts of the words in all models, with 95 % intervals.",
        plot_curves(
            [
                [panel(pair) for pair in pairs[start : start + 3]]
                for start in range(0, len(pairs), 3)
            ],
            title=f"{len(results)} models · {first.component}",
            notes=[f"{first.templates} templates; mean over the roles of a pair of groups"],
            x_axis="layer" if same_depth(results) else "depth",
            noun="model",
        ),
    )
