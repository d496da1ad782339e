"""Figures of curves over layers: panels in rows and columns, with one legend."""

from collections.abc import Iterator, Sequence
from itertools import chain, cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from neuroscope.reporting.plots.layout import (
    FAINT,
    INK,
    MARGIN,
    WIDTH,
    add_axes,
    label_axes,
    page,
    size_inches,
)
from neuroscope.reporting.plots.legend import (
    COLORS,
    MARKERS,
    REFERENCE,
    REFERENCE_DASHES,
    Entry,
    Legend,
)
from neuroscope.reporting.plots.panels import (
    Line,
    Lines,
    Panel,
    XAxis,
    extremes,
    panel_band,
    panel_lines,
    summary,
)
from neuroscope.reporting.plots.scales import (
    draw_level,
    scale_values,
    set_whole_numbers,
    style_grid,
)
from neuroscope.reporting.plots.text import FONT, Doubles, plain, shorten

Rows = Sequence[Sequence[Panel]]  # rows of panels
Grid = list[list[Lines]]  # lines of each panel, in rows
Bands = list[Line | None]  # bands of all panels, row by row
Style = dict[str, Any]  # matplotlib's properties of a line
Styles = dict[str, Style]  # styles by the name of a curve or reference line

MOST_STYLES = 8  # number of curves above which only the extreme ones are distinguished
ROW = 2.2  # inches per row of panels
TITLE = 0.2  # inches above a row with titles
FOOT = 0.6  # inches between the legend and the lowest panels
GAP = 0.15  # inches between panels
FIRST_INSET, INSET = 0.8, 0.75  # inches left of the first column, and of others with a y axis
LEGEND_WIDTH = WIDTH - FIRST_INSET - MARGIN
X_LABELS = {"layer": "layer", "depth": "relative depth (%)"}

DASHES = ("-", "--", "-.", ":")
EVERY: Style = {"color": "#c4c4c4", "linewidth": 0.6, "marker": ".", "markersize": 2}
MEDIAN: Style = {"color": INK, "linewidth": 2.8, "marker": "D", "markersize": 3}

PANEL_BAND: Style = {"color": "#8c8c8c", "alpha": 0.3}


def plot_curves(
    panels: Rows,
    *,
    title: str,
    notes: Sequence[str] = (),
    x_axis: XAxis = "layer",
    noun: str = "curve",
    ends: tuple[str, str] = ("highest", "lowest"),
) -> Figure:
    """Draw curves over layers in rows and columns of panels.

    Curves of the same name look the same in every panel. Neighbours in a row with the same metric
    share their y axis. If there are more than 8 names, all curves are grey and have no bands;
    only their median and two extreme curves stand out: those with the best and the worst mean
    over layers in the first panel, as the metric's `better` says.

    Args:
        panels: rows from top to bottom, each with its panels from left to right.
        title: heading of the figure.
        notes: lines below the title.
        x_axis: "layer" for layer numbers, or "depth" for `100 * (layer + 1) / model_layers`, the
            relative depth in per cent.
        noun: noun for what a curve stands for, such as "pair"; if all curves are grey, the legend
            says "every pair".
        ends: names in the legend of the best and the worst curve, such as "most alike" and
            "least alike".

    Raises:
        ValueError: if there is no curve, a curve, band or reference cannot be drawn (see
            `panel_lines` and `panel_band`), there are more than 4 names of references, or the
            bands of panels have more than one name.
    """
    grid = [[panel_lines(panel, x_axis) for panel in row] for row in panels]
    bands = [panel_band(panel, x_axis) for panel in chain(*panels)]
    x = _positions(grid, bands)
    grid, styles = _summarise(panels, grid, f"every {noun}", ends)
    references = _reference_styles(panels)
    legend = Legend(_entries(panels, styles, references), FIRST_INSET, LEGEND_WIDTH)
    foot = FOOT + legend.height
    figure = page(foot + sum(map(_row_height, panels)), title, notes)
    owners = _add_panels(figure, panels, foot, X_LABELS[x_axis])
    contents = zip(figure.axes, chain(*panels), chain(*grid), bands, strict=True)
    for axes, panel, lines, band in contents:
        if band:
            _draw_band(axes, band, PANEL_BAND)
        _draw_lines(axes, lines, styles)
        _style_axes(axes, x, x_axis)
        if panel.from_zero:
            axes.update_datalim([(x[0], 0.0)])
            axes.autoscale_view(scalex=False)
        for name, value in panel.references.items():
            draw_level(axes, value, references[name])
    for axes, panel in owners:
        scale_values(axes, panel.metric.axis_label, log=panel.log)
    legend.draw(figure)
    return figure


def _positions(grid: Grid, bands: Bands) -> Doubles:
    """Return the positions of all curves and bands on the x axis, in increasing order."""
    positions = [line.x for lines in chain(*grid) for line in lines.values()]
    if not positions:
        raise ValueError("there is no curve to draw")
    return np.unique(np.concatenate([*positions, *(band.x for band in bands if band)]))


def _summarise(panels: Rows, grid: Grid, every: str, ends: tuple[str, str]) -> tuple[Grid, Styles]:
    """Return the lines to draw and their styles; too many curves are summarised."""
    names = list(dict.fromkeys(name for lines in chain(*grid) for name in lines))
    longest = max(line.x.size for lines in chain(*grid) for line in lines.values())
    if len(names) <= MOST_STYLES:
        return grid, dict(zip(names, _curve_styles(longest), strict=False))
    extreme = extremes(next(chain(*panels)), next(chain(*grid)), ends)
    styles = dict(zip(extreme, _curve_styles(longest), strict=False))
    grid = [[summary(lines, every, extreme) for lines in row] for row in grid]
    return grid, {every: EVERY, "median": MEDIAN, **styles}


def _curve_styles(layers: int) -> Iterator[Style]:
    """Yield distinct styles for curves over a number of layers."""
    size = min(max(100 / layers, 3), 4.5)  # points
    for color, marker, dash in zip(COLORS, MARKERS, cycle(DASHES), strict=False):
        style = {"color": color, "marker": marker, "linestyle": dash}
        yield {**style, "markersize": size, "linewidth": 1.4}


def _reference_styles(panels: Rows) -> Styles:
    """Return a style for each name of reference lines; raise ValueError if there are too many."""
    names = list(dict.fromkeys(name for panel in chain(*panels) for name in panel.references))
    if len(names) > len(REFERENCE_DASHES):
        raise ValueError(f"more than {len(REFERENCE_DASHES)} names of references: {names}")
    dashes = zip(names, REFERENCE_DASHES, strict=False)
    return {name: {**REFERENCE, "linestyle": dash} for name, dash in dashes}


def _entries(panels: Rows, styles: Styles, references: Styles) -> list[Entry]:
    """Return the entries of the legend; raise ValueError if bands have more than one name."""
    bands = list(dict.fromkeys(panel.band.name for panel in chain(*panels) if panel.band))
    if len(bands) > 1:
        raise ValueError(f"bands of panels have more than one name: {bands}")
    looks = chain(styles.items(), references.items())
    lines = [(name, Line2D([], [], **style)) for name, style in looks]
    return [*lines, *((name, Patch(**PANEL_BAND, linewidth=0)) for name in bands)]


def _row_height(row: Sequence[Panel]) -> float:
    """Return the height of a row of panels in inches."""
    return ROW + TITLE * any(panel.title for panel in row)


def _add_panels(
    figure: Figure, panels: Rows, foot: float, x_label: str
) -> list[tuple[Axes, Panel]]:
    """Add empty axes row by row, the last row `foot` inches above the bottom of the figure.

    Returns:
        Axes that have a y axis of their own, with their panels.
    """
    insets, width = _columns(panels)
    owners = []
    for number, row in enumerate(panels):
        bottom = foot + sum(map(_row_height, panels[number + 1 :]))
        for column, panel in enumerate(row):
            left = sum(insets[: column + 1]) + column * width
            has_y_axis = _has_own_axis(row, column)
            box = (left, bottom, width - GAP, ROW - GAP)
            axes = add_axes(figure, box, sharey=None if has_y_axis else figure.axes[-1])
            is_lowest = number + 1 == len(panels) or column >= len(panels[number + 1])
            axes.tick_params(labelbottom=is_lowest, labelleft=has_y_axis)
            label_axes(axes, x_label if is_lowest else "")
            title = shorten(plain(panel.title), 10, width - 0.3)
            axes.set_title(title, y=1, size=10, family=FONT, color=INK, pad=5)
            owners += [(axes, panel)] if has_y_axis else []
    return owners


def _columns(panels: Rows) -> tuple[list[float], float]:
    """Return the width of the y axes left of each column, and of a column itself, in inches."""
    columns = range(max(map(len, panels)))
    has_y_axis = [
        any(_has_own_axis(row, column) for row in panels if column < len(row)) for column in columns
    ]
    insets = [FIRST_INSET, *(INSET * needed for needed in has_y_axis[1:])]
    return insets, (WIDTH - sum(insets) - MARGIN) / len(insets)


def _has_own_axis(row: Sequence[Panel], column: int) -> bool:
    """Return whether a panel has a y axis that it does not share with its left neighbour."""
    neighbours = row[max(column - 1, 0) : column + 1]
    return len({(panel.metric, panel.log) for panel in neighbours}) == len(neighbours)


def _draw_lines(axes: Axes, lines: Lines, styles: Styles) -> None:
    """Draw the lines of a panel and their bands, or "n/a" if there are no values."""
    for name, line in lines.items():
        axes.plot(line.x, line.y, **styles[name])
        color = styles[name]["color"]
        if line.bars and line.band:
            axes.vlines(line.x, *line.band, color=color, linewidth=1.2)
        else:
            _draw_band(axes, line, {"color": color, "alpha": 0.18})
    if all(np.isnan(line.y).all() for line in lines.values()):
        axes.text(0.5, 0.5, "n/a", transform=axes.transAxes, ha="center", color=FAINT, family=FONT)


def _draw_band(axes: Axes, line: Line, style: Style) -> None:
    """Shade the band of a line, if it has one, as a bar at a layer without neighbours."""
    if not line.band:
        return
    low, high = line.band
    known = np.pad(~np.isnan(low + high), 1)
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    axes.fill_between(line.x, low, high, **style, linewidth=0)
    bar = {"color": style["color"], "alpha": 0.3, "linewidth": 4}
    axes.vlines(line.x[alone], low[alone], high[alone], **bar)


def _style_axes(axes: Axes, x: Doubles, x_axis: XAxis) -> None:
    """Set the ticks of the x axis, layers at least 0.24 inches apart, and a light grid."""
    if x_axis == "depth":
        axes.set(xlim=(-4, 104), xticks=range(0, 101, 25))
    else:
        set_whole_numbers(axes, x, 0.24, size_inches(axes)[0] + GAP)
    style_grid(axes)
