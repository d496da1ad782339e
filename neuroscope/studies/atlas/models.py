"""Atlases of several models: what differs in the neurons of each topic."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import Curve, Panel, plot_curves
from neuroscope.reporting.run import Point
from neuroscope.reporting.tables import Column, Section, Table
from neuroscope.studies.atlas.experiment import AtlasExperiment
from neuroscope.studies.atlas.result import METRICS, AtlasResult
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

_SHOWN = ("best_auroc", "direction_auroc", "selective", "confounded")
_LEADING = "best_auroc"


def compare_models(
    experiment: AtlasExperiment, subjects: Sequence[Subject], results: Sequence[AtlasResult]
) -> Overview:
    """Return what differs between the models, by topic and layer."""
    import pandas as pd

    by_subject = dict(zip(subjects, results, strict=True))
    frames = {subject: result.to_frame() for subject, result in by_subject.items()}
    changes = differences(frames, ["topic"], list(_SHOWN))
    everything = pd.concat(frame.assign(model=subject.label) for subject, frame in frames.items())
    tables = [
        _table(changes[changes["model"] == model], str(model))
        for model in models_by_difference(changes, _LEADING).index
    ]
    headline = overview_headline(
        changes.assign(pair=changes["topic"]), _LEADING, "AUROCs of the best neurons", digits=3
    )
    return Overview(
        findings=Findings(headline, tables, depth_notes(subjects)),
        figures=_figures(by_subject),
        frames={"atlas": everything, "differences": changes},
        meaning="The tables show the value in a model minus that in the first model, by layer and"
        " topic. The best neuron of a layer may differ between models.",
    )


def difference(results: Mapping[Subject, AtlasResult]) -> Difference:
    """Return how much the second of two models differs from the first."""
    reference, _ = results
    frames = {subject: result.to_frame() for subject, result in results.items()}
    changes = differences(frames, ["topic"], list(_SHOWN))
    sizes = changes[_LEADING].abs().groupby(changes["layer"]).mean()
    points = [
        Point(f"difference/{_LEADING}", size, layer)
        for layer, size in zip(sizes.index.tolist(), sizes.tolist(), strict=True)
    ]
    mean = float(changes[_LEADING].abs().mean())
    return Difference(
        [*points, Point(f"summary/{_LEADING}_difference", mean)],
        f"Its best neurons differ from those of {reference.label} by {mean:.3f} in AUROC.",
    )


def _table(changes: "pd.DataFrame", model: str) -> Table:
    """Return the differences of one model from the reference, a row per layer and topic."""
    rows = changes[["layer", "topic", *_SHOWN]].astype(object).to_numpy().tolist()
    columns = [Column.of(METRICS[name]) for name in _SHOWN]
    return Table(
        f"{model} minus {changes.reference.iloc[0]}",
        [Column("layer"), Column("topic"), *columns],
        [Section("", rows)],
    )


def _figures(results: Mapping[Subject, AtlasResult]) -> Iterator[NamedFigure]:
    """Yield the figure in which the models are overlaid: a panel per topic."""
    topics = [row.topic for row in next(iter(results.values())).topics]
    panels = [
        Panel(
            METRICS[_LEADING],
            {
                subject.label: Curve(
                    result.layers,
                    result.of_topic(topic, _LEADING),
                    model_layers=subject.checkpoint.layer_count,
                )
                for subject, result in results.items()
            },
            topic,
        )
        for topic in topics
    ]
    yield NamedFigure(
        Path(OVERVIEW_FIGURE).name,
        "AUROC of the best neuron of each layer, by topic.",
        plot_curves(
            [panels[start : start + 3] for start in range(0, len(panels), 3)],
            title=f"{len(results)} models · best neurons",
            x_axis="layer" if same_depth(results) else "depth",
            noun="model",
        ),
    )
