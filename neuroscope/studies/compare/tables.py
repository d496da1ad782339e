"""Tables of a comparison."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from neuroscope.labels import model_label, pair_labels
from neuroscope.reporting.tables import Cell, Column, Section, Table
from neuroscope.studies.compare.result import (
    LEADING,
    METRICS,
    MOST_PAIRS,
    VIEW_MEANINGS,
    VIEW_NAMES,
    Comparison,
    ComparisonRow,
)

ViewMetrics = Mapping[str, Sequence[str]]
"""View -> names of its metrics that are shown."""

_MOST_LAYERS = 8  # columns of layers, so that a table fits into a terminal
_DIGITS_OF_PAIRS = 3  # decimals in tables of several pairs
_EXTREMES = 5  # pairs at each end
_SCALE = "Cosines: 1 is the same pattern of neurons, 0 an unrelated one, -1 the opposite one."
_OF_A_PAIR = ("cosine_z", "cosine", "rms_z", "mse")
_EVERY: ViewMetrics = {
    "span": ("cosine_z", "cosine", "rms_z"),
    "context": ("cosine_z", "cosine", "rms_z"),
    "aligned": tuple(METRICS),
}


def summary_table(comparison: Comparison) -> Table:
    """Return the summary table, with one section per view and the headline below.

    Of one pair it shows several metrics at every layer, of several pairs the standardised cosine,
    and of many pairs that of the most and the least alike.
    """
    title = f"{model_label(comparison.model)}, {comparison.component}"
    if len(comparison.pairs) == 1:
        return _table_of_one_pair(comparison, f"{title}: {comparison.labels[0]}")
    return _table_of_pairs(comparison, f"{title}: {METRICS[LEADING].heading} by layer")


def layers_table(comparison: Comparison, layers: Sequence[int]) -> Table:
    """Return a table of all pairs at some layers, with one section per layer.

    Its numbers have as many decimals as those of the summary table.
    """
    labels = pair_labels(comparison.text_pairs)
    sections = [
        Section(
            f"{comparison.component}.{layer}",
            [
                [labels[views["aligned"].a, views["aligned"].b], *_cells(views)]
                for views in comparison.by_pair(layer)
            ],
        )
        for layer in layers
    ]
    columns = [
        Column.of(METRICS[name], group=f"{VIEW_NAMES[view]} ({view})")
        for view, names in _EVERY.items()
        for name in names
    ]
    if len(comparison.pairs) > 1:
        columns = [replace(column, digits=_DIGITS_OF_PAIRS) for column in columns]
    return Table("", [Column("pair"), *columns], sections)


def shown_layers(layers: Sequence[int], focus: Iterable[int]) -> list[int]:
    """Return the layers that a table has room for: the first, the last, the focus, and others."""
    if len(layers) <= _MOST_LAYERS:
        return list(layers)
    spread = np.linspace(0, len(layers) - 1, _MOST_LAYERS - 1).round().astype(int)
    chosen = {layers[index] for index in spread} | set(list(focus)[:1])
    return sorted(chosen)


def _table_of_one_pair(comparison: Comparison, title: str) -> Table:
    sections = [
        Section(
            _view_title(view),
            [
                [row.layer, *(getattr(row, name) for name in _OF_A_PAIR)]
                for row in comparison.rows
                if row.view == view
            ],
        )
        for view in VIEW_NAMES
    ]
    columns = [Column("layer"), *(Column.of(METRICS[name]) for name in _OF_A_PAIR)]
    return Table(title, columns, sections, [_SCALE, comparison.headline])


def _table_of_pairs(comparison: Comparison, title: str) -> Table:
    layers = shown_layers(comparison.layers, comparison.focus)
    headings = [Column(f"layer {layer}", digits=_DIGITS_OF_PAIRS) for layer in layers]
    places = [comparison.layers.index(layer) for layer in layers]
    views = VIEW_NAMES if len(comparison.pairs) <= MOST_PAIRS else ("span",)
    sections = []
    for view in views:
        values = comparison.values(LEADING, view)
        rows: list[list[Cell]] = [
            [label, *map(float, row)]
            for label, row in zip(comparison.labels, values[:, places], strict=True)
        ]
        if len(rows) <= MOST_PAIRS:
            sections.append(Section(_view_title(view), rows))
        else:
            sections += _extremes(values, rows, _view_title(view))
    return Table(title, [Column("pair"), *headings], sections, [_SCALE, comparison.headline])


def _extremes(values: NDArray[np.float64], rows: list[list[Cell]], title: str) -> list[Section]:
    """Return the rows of the least and the most alike pairs, by their mean over layers."""
    known = np.flatnonzero(np.isfinite(values).any(axis=1))
    order = known[np.argsort(np.nanmean(values[known], axis=1), kind="stable")].tolist()
    ends = {"least": order[:_EXTREMES], "most": order[::-1][:_EXTREMES]}
    return [
        Section(f"{title}, {end} alike of {len(rows):,} pairs", [rows[index] for index in indices])
        for end, indices in ends.items()
    ]


def _view_title(view: str) -> str:
    """Return the line above the values of a view, which explains it."""
    return f"{VIEW_NAMES[view]} ({view}): {VIEW_MEANINGS[view]}"


def _cells(views: Mapping[str, ComparisonRow]) -> list[Cell]:
    return [getattr(views[view], name) for view, names in _EVERY.items() for name in names]
