"""Heat maps of matrices: named rows by layers, layers by layers, or any names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.plots.layout import (
    INK,
    LEGEND,
    MARGIN,
    WIDTH,
    Pair,
    add_axes,
    add_color_bar,
    label_axes,
    page,
    size_inches,
    thin,
)
from neuroscope.reporting.plots.text import (
    FONT,
    Doubles,
    format_numbers,
    number_format,
    plain,
    shorten,
    text_width,
    wrap,
)

Names = Sequence[str] | Sequence[int]  # names, or layer numbers
Limits = tuple[float | None, float | None]  # values at which the colours begin and end

MOST_NUMBERS = 150  # number of cells above which no values are written
LEAST_POINTS = 4.5  # font size below which values are unreadable
MOST_SIDE, MOST_HEIGHT = 0.62, 6.3  # inches: largest side of a square cell, and height of all cells
LEAST_HEIGHT = 0.9  # inches: least height of the colour bar
LEAST_WIDTH = 5.0  # inches: least width of a page, for its heading
BAR = 1.15  # inches: width of the colour bar, its labels and the gaps around it
FOOT = 0.5  # inches below the cells for short names of columns and the label of the axis
LINE = 0.13  # inches between names in neighbouring lines
LABEL_LINE = 0.16  # inches per line of the label of the x axis
Y_LABEL = 0.3  # inches: width of the label of the y axis
ROW_NAME, COLUMN_NAME = 3.0, 1.6  # inches: length above which a name is shortened
MISSING: dict[str, Any] = dict(facecolor="#eeeeee", edgecolor="#b0b0b0", hatch="////", linewidth=0)


def plot_matrix(
    values: ArrayLike,
    rows: Names,
    columns: Names,
    *,
    metric: Metric,
    title: str,
    notes: Sequence[str] = (),
    x_label: str = "layer",
    y_label: str = "",
    noun: str = "row",
    limits: Limits | None = None,
    square: bool = False,
    diverging: bool = False,
) -> Figure:
    """Draw a matrix as a heat map, with its values written into the cells where they fit.

    The first row is at the top, as in a table, unless rows are layers: then it is at the bottom,
    as in a graph, so that in a matrix of layers by layers both start at the lower left corner.
    NaN is hatched. If there is no room for every name, one in 2, 4, 8, … is shown.

    Args:
        values: (rows, columns) values; NaN if there is none.
        rows: names of the rows, or their layer numbers.
        columns: names of the columns, or their layer numbers.
        metric: metric of the values; its label is written beside the colour bar.
        title: heading of the figure.
        notes: lines below the title.
        x_label: label of the columns.
        y_label: label of the rows.
        noun: noun for one row, such as "pair"; used if only some of the rows are named.
        limits: values at which the colours begin and end, such as `(0, None)` for distances; None
            stands for the lowest or highest of `values`.
        square: whether to draw square cells; otherwise the cells fill the width of the page.
        diverging: whether the colours diverge from the middle of the limits, for signed values.

    Raises:
        ValueError: if there is no row or no column, `values` has another shape or is infinite, or
            the limits do not increase.
    """
    cells = _finite_cells(values, len(rows), len(columns))
    low, high = _limits(cells, limits)
    sides = _Side(rows, noun, ROW_NAME), _Side(columns, "column", COLUMN_NAME)
    frame = _frame(*sides, x_label, bool(y_label), square)
    figure = page(frame.top + 0.1, title, notes, frame.page_width)
    axes = add_axes(figure, (frame.left, frame.top - frame.height, frame.width, frame.height))
    origin = "lower" if sides[0].are_layers else "upper"
    image = _draw_cells(axes, cells, (low, high), origin, "PuOr_r" if diverging else "viridis")
    _set_ticks(axes, *sides, frame)
    label_axes(axes, frame.x_label, y_label)
    if cells.size <= MOST_NUMBERS:
        _separate(axes, cells.shape)
        _write_numbers(axes, image, cells)
    box = (frame.left + frame.width + 0.15, frame.foot, 0.16, frame.top - frame.foot)
    bar = add_color_bar(figure, image, box, [metric.axis_label], _extend(cells, low, high))
    if not (cells % 1).any():  # counts
        bar.locator = MaxNLocator(integer=True)
    if np.isnan(cells).any():
        corner = (box[0] / frame.page_width, 0)
        figure.legend([Patch(**MISSING)], ["n/a"], bbox_to_anchor=corner, **LEGEND)
    return figure


def _finite_cells(values: ArrayLike, rows: int, columns: int) -> Doubles:
    """Return the values as an array; raise ValueError unless they can be drawn."""
    cells = np.asarray(values, dtype=np.float64)
    if cells.shape != (rows, columns) or not cells.size:
        raise ValueError(
            f"values of shape {cells.shape} must be (rows, columns) = ({rows}, {columns}), "
            "with at least one of each"
        )
    if np.isinf(cells).any():
        raise ValueError(f"values contain {np.isinf(cells).sum()} infinite value(s)")
    return cells


def _limits(cells: Doubles, limits: Limits | None) -> Pair:
    """Return the values at which the colours begin and end; equal values are moved apart."""
    known = cells[~np.isnan(cells)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    first, last = limits or (None, None)
    low, high = low if first is None else first, high if last is None else last
    if np.isclose(low, high, rtol=1e-9, atol=0):
        pad = abs(low) / 20 or 0.05
        low, high = low - pad * (first is None), high + pad * (last is None)
    if not low < high:
        raise ValueError(f"limits must increase; they are ({low:g}, {high:g})")
    return low, high


class _Side:
    """Names along one side of a matrix, as they are drawn.

    Args:
        names: names of the rows or columns, or their layer numbers.
        noun: noun for one row or column.
        room: length in inches above which a name is shortened.
    """

    def __init__(self, names: Names, noun: str, room: float):
        self.noun = noun
        self.are_layers = not isinstance(names[0], str)
        self.texts = [shorten(plain(str(name)), 9, room) for name in names]
        self.longest = max(text_width(text, 9) for text in self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def shown(self, length: float, gap: float) -> list[int]:
        """Return indices of names that fit on a side of `length` inches, `gap` inches apart."""
        return thin(np.arange(len(self)), gap * len(self) / length)

    def remark(self, shown: list[int]) -> str:
        """Return a remark if some names are not shown, except for layer numbers."""
        if self.are_layers or len(shown) == len(self):
            return ""
        return f"one {self.noun} in {shown[1] if len(shown) > 1 else len(self)} is named"


@dataclass(frozen=True)
class _Frame:
    """Position of the cells in inches, and the names that are written beside them."""

    left: float  # left edge of the cells
    foot: float  # lower edge of the colour bar
    top: float  # upper edge of the colour bar and the cells
    width: float  # width of all cells
    height: float  # height of all cells
    rows: list[int]  # indices of the rows that are named
    columns: list[int]  # indices of the columns that are named
    x_label: str  # label of the columns, with remarks on names that are not written
    upright: bool  # whether the names of columns are rotated by 90 degrees

    @property
    def page_width(self) -> float:
        """Width of the page in inches."""
        return max(self.left + self.width + BAR, LEAST_WIDTH)


def _frame(rows: _Side, columns: _Side, x_label: str, y_label: bool, square: bool) -> _Frame:
    """Return the position of the cells; `y_label` says whether the rows have a label."""
    left = MARGIN + 0.12 + rows.longest + Y_LABEL * y_label
    width, height = WIDTH - left - BAR, _table_height(len(rows))
    if square:
        cell = min(width / len(columns), MOST_HEIGHT / len(rows), MOST_SIDE)
        width, height = cell * len(columns), cell * len(rows)
    named_rows = rows.shown(height, LINE)
    named_columns = columns.shown(width, 0.24 if columns.are_layers else LINE)
    remarks = "; ".join(filter(None, [rows.remark(named_rows), columns.remark(named_columns)]))
    label = "   ".join(filter(None, [x_label, f"({remarks})" if remarks else ""]))
    upright = not columns.are_layers and columns.longest > width / len(columns) - 0.1
    foot = FOOT + (columns.longest - 0.12 if upright else 0)
    foot += LABEL_LINE * (len(wrap(plain(label), 9, width, 2)) - 1)
    top = foot + max(height, LEAST_HEIGHT)
    return _Frame(left, foot, top, width, height, named_rows, named_columns, label, upright)


def _table_height(rows: int) -> float:
    """Return the height of all rows in inches: 0.42 (few rows) to 0.17 (many) each, at most 11."""
    return min(max(rows * min(max(5 / rows, 0.17), 0.42), LEAST_HEIGHT), 11)


def _draw_cells(axes: Axes, cells: Doubles, limits: Pair, origin: str, colors: str) -> AxesImage:
    """Draw the cells that are not NaN; `origin` is the side of the first row."""
    axes.patch.set(**MISSING)  # visible where a cell is not drawn
    style: dict[str, Any] = {"interpolation": "nearest", "aspect": "auto", "cmap": colors}
    style |= {"vmin": limits[0], "vmax": limits[1], "origin": origin}
    return axes.imshow(np.ma.masked_invalid(cells), **style)


def _set_ticks(axes: Axes, rows: _Side, columns: _Side, frame: _Frame) -> None:
    """Write the names of rows and columns."""
    names = [columns.texts[column] for column in frame.columns]
    axes.set_xticks(frame.columns, names, rotation=90 * frame.upright)
    axes.set_yticks(frame.rows, [rows.texts[row] for row in frame.rows])
    axes.tick_params(length=0)
    for axis, side in ((axes.xaxis, columns), (axes.yaxis, rows)):
        if not side.are_layers:
            axis.set_tick_params(labelsize=9, labelcolor=INK)


def _separate(axes: Axes, shape: tuple[int, ...]) -> None:
    """Draw white lines between cells."""
    axes.set_yticks(np.arange(shape[0] - 1) + 0.5, minor=True)
    axes.set_xticks(np.arange(shape[1] - 1) + 0.5, minor=True)
    axes.tick_params(which="minor", length=0)
    axes.set_axisbelow(False)
    axes.grid(which="minor", color="white", linewidth=1)


def _extend(cells: Doubles, low: float, high: float) -> str:
    """Return the ends of the colour bar to mark because values lie beyond its colours."""
    under, over = (cells < low).any(), (cells > high).any()
    return "both" if under and over else "min" if under else "max" if over else "neither"


def _write_numbers(axes: Axes, image: AxesImage, cells: Doubles) -> None:
    """Write the value of each cell into it if it is readable, rotated if it is larger then."""
    known = np.argwhere(~np.isnan(cells)).tolist()
    values = np.array([cells[row, column] for row, column in known])
    texts = format_numbers(values, _number_format(values))
    widest = max((text_width(text, 8) for text in texts), default=1.0) / 8  # at one point
    width, height = (
        inches / count for inches, count in zip(size_inches(axes), cells.shape[::-1], strict=True)
    )
    level, upright = min(width / widest, 58 * height), min(height / widest, 58 * width)
    rotated = level < 8 and upright > level
    points = min(0.86 * (upright if rotated else level), 9)
    if points < LEAST_POINTS:
        return
    style = {"size": points, "rotation": 90 * rotated, "ha": "center", "va": "center"}
    for (row, column), text in zip(known, texts, strict=True):
        color = _contrast(image.to_rgba(cells[row, column]))
        axes.text(column, row, text, color=color, family=FONT, **style)


def _number_format(values: Doubles) -> str:
    """Return a format that shows two digits of the range of values, in at most five decimals.

    Scientific notation is only for small or large values, not for values close to each other.
    """
    low, high = _limits(values, None)
    spec = number_format(np.array([high - low]), 2)
    return "z.5f" if high - low < 1e-3 <= max(-low, high) and "e" in spec else spec


def _contrast(color: NDArray[Any]) -> str:
    """Return ink or white, whichever stands out more from a colour."""
    red, green, blue = (part**2.2 for part in color[:3])
    return "white" if 0.21 * red + 0.72 * green + 0.07 * blue < 0.21 else INK
