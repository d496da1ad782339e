"""Tables of a comparison."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from neuroscope.labels import model_label
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

MOST_LAYERS = 8  # columns of layers, so that a table fits into a terminal
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
    labels = comparison.pair_labels
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


def shown_layers(
    layers: Sequence[int], focus: Iterable[int], *, most: int = MOST_LAYERS
) -> list[int]:
    """Return the layers that a table has room for: the first, the last, the focus, and others."""
    if len(layers) <= most:
        return list(layers)
    spread = np.linspace(0, len(layers) - 1, most - 1).round().astype(int)
    return sorted({layers[index] for index in spread} | set(focus))


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
    if len(comparison.pairs) > MOST_PAIRS:
        return _table_of_extremes(comparison, title)
    focus = [*comparison.focus[:1], *_extreme_layers(comparison)]
    layers = shown_layers(comparison.layers, focus)
    columns = [Column("pair"), *_layer_columns(layers)]
    sections = [
        Section(
            _view_title(view),
            [
                [label, *values]
                for label, values in zip(
                    comparison.labels, _at_layers(comparison, view, layers), strict=True
                )
            ],
        )
        for view in VIEW_NAMES
    ]
    return Table(title, columns, sections, [_SCALE, comparison.headline])


def _table_of_extremes(comparison: Comparison, title: str) -> Table:
    """Return the least and the most alike pairs, by their lowest and highest value at any layer.

    The headline names the first pair of each.
    """
    layers = shown_layers(comparison.layers, comparison.focus[:1], most=MOST_LAYERS - 1)
    columns = [
        *(Column("pair"), Column("extreme", digits=_DIGITS_OF_PAIRS), Column("at layer")),
        *_layer_columns(layers),
    ]
    view = comparison.leading_view
    sections = [] if view is None else _extremes(comparison, view, layers)
    return Table(title, columns, sections, [_SCALE, comparison.headline])


def _extremes(comparison: Comparison, view: str, layers: Sequence[int]) -> list[Section]:
    values = comparison.values(LEADING, view)
    shown = _at_layers(comparison, view, layers)
    known = np.flatnonzero(np.isfinite(values).any(axis=1))
    sections = []
    ends = (("least", "lowest", np.nanargmin, 1), ("most", "highest", np.nanargmax, -1))
    for end, extreme, argument, sign in ends:
        at = dict(zip(known.tolist(), argument(values[known], axis=1).tolist(), strict=True))
        rank = {pair: sign * float(values[pair, layer]) for pair, layer in at.items()}
        order = sorted(at, key=rank.__getitem__)
        rows: list[list[Cell]] = [
            [
                comparison.labels[pair],
                float(values[pair, at[pair]]),
                comparison.layers[at[pair]],
                *shown[pair],
            ]
            for pair in order[:_EXTREMES]
        ]
        title = f"{_view_title(view)}, {end} alike of {len(values):,} pairs, by the {extreme} value"
        sections.append(Section(title, rows))
    return sections


def _extreme_layers(comparison: Comparison) -> list[int]:
    """Return the layers that the headline names."""
    if comparison.leading_view is None:
        return []
    values = comparison.values(LEADING, comparison.leading_view)
    ends = int(np.nanargmin(values)), int(np.nanargmax(values))
    return [comparison.layers[end % len(comparison.layers)] for end in ends]


def _layer_columns(layers: Sequence[int]) -> list[Column]:
    return [Column(f"layer {layer}", digits=_DIGITS_OF_PAIRS) for layer in layers]


def _at_layers(comparison: Comparison, view: str, layers: Sequence[int]) -> list[list[float]]:
    """Return the standardised cosine of each pair at some layers."""
    places = [comparison.layers.index(layer) for layer in layers]
    at_layers: list[list[float]] = comparison.values(LEADING, view)[:, places].tolist()
    return at_layers


def _view_title(view: str) -> str:
    """Return the line above the values of a view, which explains it."""
    return f"{VIEW_NAMES[view]} ({view}): {VIEW_MEANINGS[view]}"


def _cells(views: Mapping[str, ComparisonRow]) -> list[Cell]:
    return [getattr(views[view], name) for view, names in _EVERY.items() for name in names]
