"""Tables of a comparison."""

from collections.abc import Mapping, Sequence

from neuroscope.align import VIEWS
from neuroscope.labels import model_label, pair_labels
from neuroscope.reporting.tables import Cell, Column, Section, Table
from neuroscope.studies.compare.experiment import CompareExperiment
from neuroscope.studies.compare.result import METRICS, Comparison, ComparisonRow

ViewMetrics = Mapping[str, Sequence[str]]
"""View -> names of its metrics that are shown."""

_BY_LAYER: ViewMetrics = {
    "aligned": ("cosine", "mse", "cosine_z", "rms_z"),
    "span": ("cosine", "cosine_z"),
    "context": ("cosine", "cosine_z"),
}
_BY_PAIR: ViewMetrics = {
    "aligned": ("cosine", "cosine_z"),
    "span": ("cosine", "cosine_z"),
    "context": ("cosine_z",),
}
_EVERY: ViewMetrics = {
    view: tuple(METRICS) if view == "aligned" else ("cosine", "cosine_z", "rms_z") for view in VIEWS
}
_MOST_ROWS = 60  # a screen or two


def summary_table(experiment: CompareExperiment, comparison: Comparison) -> Table:
    """Return the summary table: each pair by layer, or for many pairs only the focus layers."""
    title = f"{model_label(comparison.model)}, {comparison.component}"
    labels = pair_labels(comparison.text_pairs)
    if len(labels) * len(comparison.layers) > _MOST_ROWS:
        return layers_table(comparison, comparison.focus, _BY_PAIR, title)
    rows: dict[str, list[list[Cell]]] = {label: [] for label in labels.values()}
    for layer in comparison.layers:
        for views in comparison.by_pair(layer):
            label = labels[views["aligned"].a, views["aligned"].b]
            rows[label].append([layer, *_cells(_BY_LAYER, views)])
    sections = [Section(label, cells) for label, cells in rows.items()]
    return Table(title, [Column("layer"), *_columns(_BY_LAYER)], sections)


def layers_table(
    comparison: Comparison,
    layers: Sequence[int],
    shown: ViewMetrics = _EVERY,
    title: str = "",
) -> Table:
    """Return a table of all pairs at some layers, with one section per layer."""
    labels = pair_labels(comparison.text_pairs)
    sections = [
        Section(
            f"{comparison.component}.{layer}",
            [
                [labels[views["aligned"].a, views["aligned"].b], *_cells(shown, views)]
                for views in comparison.by_pair(layer)
            ],
        )
        for layer in layers
    ]
    return Table(title, [Column("pair"), *_columns(shown)], sections)


def _columns(shown: ViewMetrics) -> list[Column]:
    return [Column.of(METRICS[name], group=view) for view, names in shown.items() for name in names]


def _cells(shown: ViewMetrics, views: Mapping[str, ComparisonRow]) -> list[Cell]:
    return [getattr(views[view], name) for view, names in shown.items() for name in names]
