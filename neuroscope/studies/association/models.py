"""Study of associations in several models: what differs between the models."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import Curve, Panel, plot_curves
from neuroscope.reporting.run import Point
from neuroscope.reporting.tables import Column, Section, Table
from neuroscope.studies.association.experiment import AssociationExperiment
from neuroscope.studies.association.figures import CONTRAST
from neuroscope.studies.association.result import METRICS, AssociationResult, contrast_label
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

_COMPARED = ("raw", "controlled")
_KEYS = ("view", "role", "group_a", "group_b", "pair")
_MOST_PANELS = 6
_MOST_ROWS = 20
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
        meaning=f"Controlled contrast: {METRICS['controlled'].meaning}. The tables show the"
        f" {_MOST_ROWS} largest changes: the value in a model minus that in the first model.",
    )


def difference(results: Mapping[Subject, AssociationResult]) -> Difference:
    """Return how much the second of two models differs from the first.

    The metrics are mean absolute differences over contrasts, per layer.
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
    """Return the rows of a result, with the name of each contrast."""
    labels = [contrast_label(row.role, row.group_a, row.group_b) for row in result.rows]
    return result.to_frame().assign(pair=labels)


def _table(changes: "pd.DataFrame", model: str) -> Table:
    """Return the largest differences of one model from the reference."""
    order = changes["controlled"].abs().sort_values(ascending=False, kind="stable").index
    largest = changes.loc[order[:_MOST_ROWS]]
    rows = largest[["pair", "layer", *_COMPARED]].astype(object).to_numpy().tolist()
    columns = [Column("contrast"), Column("layer")]
    columns += [Column.of(METRICS[name]) for name in _COMPARED]
    return Table(f"{model} minus {changes.reference.iloc[0]}", columns, [Section("", rows)])


def _figures(results: Mapping[Subject, AssociationResult]) -> Iterator[NamedFigure]:
    """Yield the figure in which the models are overlaid."""
    first = next(iter(results.values()))
    contrasts = first.largest(_MOST_PANELS)

    def panel(contrast: tuple[str, str, str]) -> Panel:
        curves = {
            subject.label: Curve(
                result.layers,
                result.values("controlled", contrast),
                (result.values("low", contrast), result.values("high", contrast)),
                model_layers=subject.checkpoint.layer_count,
            )
            for subject, result in results.items()
        }
        return Panel(CONTRAST, curves, contrast_label(*contrast), {"no difference": 0.0})

    yield NamedFigure(
        Path(OVERVIEW_FIGURE).name,
        "Controlled contrasts of the words in all models, with 95 % intervals: the largest ones in"
        " the first model.",
        plot_curves(
            [
                [panel(contrast) for contrast in contrasts[start : start + 3]]
                for start in range(0, len(contrasts), 3)
            ],
            title=f"{len(results)} models · {first.component}",
            notes=[f"{first.templates} templates"],
            x_axis="layer" if same_depth(results) else "depth",
            noun="model",
        ),
    )
