"""Figure of values with their intervals: a row per name, a mark per series."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.plots.layout import INK, MARGIN, WIDTH, add_axes, label_axes, page
from neuroscope.reporting.plots.legend import COLORS, MARKERS, REFERENCE, REFERENCE_DASHES, Legend
from neuroscope.reporting.plots.scales import style_grid
from neuroscope.reporting.plots.text import FONT, Doubles, plain, shorten, text_width

MOST_SERIES = len(MARKERS)
ROW, GAP = 0.2, 0.16  # inches per mark, and between two rows
FOOT, TICK_GAP = 0.6, 0.12  # inches between the legend and the axes, and right of a name
LONGEST = 3.2  # inches of a name, above which it is shortened
MARK: dict[str, Any] = {"markersize": 5.5, "linestyle": ""}
BAR: dict[str, Any] = {"linewidth": 1.6, "alpha": 0.75}

Interval = tuple[float, float, float]
"""Value, lower and upper end; NaN where there is none."""


def plot_intervals(
    names: Sequence[str],
    series: Mapping[str, Sequence[Interval]],
    *,
    metric: Metric,
    title: str,
    notes: Sequence[str] = (),
    reference: tuple[str, float] | None = None,
) -> Figure:
    """Draw values with their intervals in rows, the first row at the top.

    Args:
        names: names of the rows.
        series: value, lower and upper end of each row, by the name of the series in the legend; a
            row without a value (NaN) has no mark, and one without ends no bar.
        metric: metric of the values; its label is written below the x axis.
        title: heading of the figure.
        notes: lines below the title.
        reference: name and value of a vertical line.

    Raises:
        ValueError: there is no row, there are no series or more than `MOST_SERIES`, their lengths
            are not that of the rows, or a value is infinite.
    """
    values = _values(names, series)
    left = MARGIN + TICK_GAP + max(min(text_width(plain(name), 9), LONGEST) for name in names)
    legend = Legend(_entries(series, values, reference), left, WIDTH - left - MARGIN)
    foot, height = FOOT + legend.height, len(names) * (ROW * len(series) + GAP)
    figure = page(foot + height, title, notes)
    axes = add_axes(figure, (left, foot, WIDTH - left - MARGIN, height - MARGIN))
    style_grid(axes)
    if reference:
        axes.axvline(reference[1], **REFERENCE, linestyle=REFERENCE_DASHES[0])
    for number, array in enumerate(values):
        _draw(axes, number, len(values), array)
    axes.set_ylim(len(names) - 0.5, -0.5)
    texts = [shorten(plain(name), 9, LONGEST) for name in names]
    axes.set_yticks(range(len(names)), texts, font=FONT, color=INK, size=9)
    axes.tick_params(axis="y", length=0)
    label_axes(axes, metric.axis_label)
    legend.draw(figure)
    return figure


def _values(names: Sequence[str], series: Mapping[str, Sequence[Interval]]) -> list[Doubles]:
    """Return each series as an array, (rows, 3); raise ValueError if it cannot be drawn."""
    if not names or not 0 < len(series) <= MOST_SERIES:
        raise ValueError(f"{len(names)} rows and {len(series)} series cannot be drawn")
    values = []
    for name, intervals in series.items():
        array = np.array(intervals, dtype=np.float64)
        if array.shape != (len(names), 3) or np.isinf(array).any():
            raise ValueError(f"series {name!r} must have {len(names)} finite rows of 3 numbers")
        values.append(array)
    return values


def _entries(
    series: Iterable[str], values: Sequence[Doubles], reference: tuple[str, float] | None
) -> list[tuple[str, Line2D]]:
    """Return the entries of the legend."""
    entries = [
        (name, Line2D([], [], **_look(number, array)))
        for number, (name, array) in enumerate(zip(series, values, strict=True))
    ]
    if reference:
        line = Line2D([], [], **REFERENCE, linestyle=REFERENCE_DASHES[0])
        entries.append((reference[0], line))
    return entries


def _look(number: int, values: Doubles) -> dict[str, Any]:
    """Return the look of a series in the legend: its mark, or its bar if it has no values."""
    if np.isnan(values[:, 0]).all():
        return {"color": COLORS[number], **BAR}
    return {**_style(number), **MARK}


def _style(number: int) -> dict[str, Any]:
    return {"color": COLORS[number], "marker": MARKERS[number]}


def _draw(axes: Axes, number: int, count: int, values: Doubles) -> None:
    """Draw the marks and bars of one series, beside those of the others."""
    shift = (number - (count - 1) / 2) * ROW / (ROW * count + GAP)
    y = np.arange(len(values)) + shift
    known = ~np.isnan(values[:, 1:]).any(axis=1)
    low, high = values[known, 1:].T
    axes.hlines(y[known], low, high, colors=COLORS[number], **BAR)
    axes.plot(values[:, 0], y, **_style(number), **MARK)
