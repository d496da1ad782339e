"""Pages measured in inches, and the axes, tables, colour bars and labels on them.

Nothing here changes matplotlib's global settings, so figures can be drawn in any thread.
"""

import io
import os
from collections.abc import Sequence
from math import ceil, log2
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray

from neuroscope.reporting.plots.text import DPI, FONT, Doubles, plain, text_width, wrap

WIDTH = 10.0  # inches: 1,200 pixels at DPI
MARGIN = 0.15  # inches
INK, FAINT, RULE, GRID = "#222222", "#5f5f5f", "#bbbbbb", "#e4e4e4"
LEGEND: dict[str, Any] = {
    "loc": "lower left",
    "frameon": False,
    "labelcolor": INK,
    "prop": {"family": FONT, "size": 9},
}
LABEL_HEIGHT = 0.12  # inches: height of a label beside a point
Pair = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, width, height in inches

_BOLD = 1.15  # greatest width of bold text relative to regular text
_GUTTER = 0.16  # inches between the columns of a table
_SHIFTS = (0.0, -1.1, 1.1)  # vertical shifts of a label beside its point, in label heights


class NotebookFigure(Figure):
    """Figure that notebooks show although it was not drawn with pyplot."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        save_png(self, png)
        return png.getvalue()


def save_png(figure: Figure, path: str | os.PathLike[str] | IO[bytes], *, dpi: float = DPI) -> None:
    """Write a figure as PNG to a path or binary file; equal figures give equal bytes.

    Args:
        figure: figure to write.
        path: path of the file, or an open binary file.
        dpi: resolution in pixels per inch.
    """
    figure.savefig(path, format="png", dpi=dpi, metadata={"Software": None})


def page(height: float, title: str, notes: Sequence[str], width: float = WIDTH) -> Figure:
    """Return a figure with a heading and `height` empty inches below it.

    The title and each note take at most two lines; longer ones are shortened.

    Args:
        height: height below the heading in inches.
        title: title of the figure.
        notes: lines below the title.
        width: width of the figure in inches.
    """
    room = width - 2 * MARGIN
    title_lines = wrap(plain(title), 14 * _BOLD, room, 2)
    note_lines = [line for note in notes for line in wrap(plain(note), 10, room, 2)]
    title_height = 0.03 + 0.25 * len(title_lines)
    total = height + MARGIN + title_height + 0.18 * len(note_lines) + 0.08
    figure = NotebookFigure(figsize=(width, total), dpi=DPI, facecolor="white")
    style: dict[str, Any] = {"ha": "left", "va": "top", "family": FONT}
    left, top = MARGIN / width, 1 - MARGIN / total
    below = top - title_height / total
    figure.text(left, top, "\n".join(title_lines), size=14, weight="bold", color=INK, **style)
    body = "\n".join(note_lines)
    figure.text(left, below, body, size=10, color=FAINT, linespacing=1.25, **style)
    return figure


def add_axes(figure: Figure, box: Box, **options: Any) -> Axes:
    """Add axes that fill a box, measured in inches from the figure's lower left corner."""
    figure_width, figure_height = figure.get_size_inches()
    left, bottom, width, height = box
    area = (
        left / figure_width,
        bottom / figure_height,
        width / figure_width,
        height / figure_height,
    )
    axes: Axes = figure.add_axes(area, **options)
    axes.tick_params(labelsize=8.5, labelfontfamily=FONT, labelcolor=FAINT, color=RULE, length=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set(size=8.5, family=FONT, color=FAINT)
    axes.spines[:].set(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def size_inches(axes: Axes) -> Pair:
    """Return the width and height of axes in inches."""
    return axes.bbox.width / DPI, axes.bbox.height / DPI


def label_axes(axes: Axes, x: str = "", y: str = "") -> None:
    """Label the x axis, the y axis or both, in at most two lines each."""
    width, height = size_inches(axes)
    style: dict[str, Any] = {"size": 9, "family": FONT, "color": INK}
    if x:
        axes.set_xlabel("\n".join(wrap(plain(x), 9, width, 2)), **style)
    if y:
        axes.set_ylabel("\n".join(wrap(plain(y), 9, height, 2)), **style)


def thin(positions: NDArray[Any], gap: float) -> list[int]:
    """Return indices of increasing positions that are far enough apart for tick labels.

    The distance between neighbours is at least `gap`, rounded up to a power of two.
    """
    kept = [0]
    for index in range(1, positions.size):
        if positions[index] - positions[kept[-1]] >= 2 ** ceil(log2(gap)):
            kept.append(index)
    return kept


def add_color_bar(
    figure: Figure, image: ScalarMappable, box: Box, labels: Sequence[str], extend: str
) -> Colorbar:
    """Add a colour bar in a box, measured in inches, with labels of at most two lines each."""
    lines = [line for text in labels for line in wrap(plain(text), 8.5, box[3], 2)]
    bar = figure.colorbar(image, cax=add_axes(figure, box), extend=extend)
    bar.set_label("\n".join(lines), size=8.5, family=FONT, color=INK)
    bar.outline.set(edgecolor=RULE, linewidth=0.8)
    return bar


def add_table(figure: Figure, right: float, top: float, columns: dict[str, list[str]]) -> None:
    """Write a table of right-aligned columns by their headings.

    Args:
        figure: figure to write in.
        right: right edge of the table, in inches from the left edge of the figure.
        top: top edge of the table, in inches from the lower edge of the figure.
        columns: cells of each column, by the heading of the column.
    """
    width, height = figure.get_size_inches()
    left = right - table_size(columns)[0]
    rule = [left / width, right / width], [(top - 0.2) / height] * 2
    figure.add_artist(Line2D(*rule, color=RULE, linewidth=0.8))
    style: dict[str, Any] = {"ha": "right", "va": "top", "family": FONT, "size": 9, "color": INK}
    for heading, cells in columns.items():
        left += _column_width(heading, cells)
        figure.text(left / width, top / height, heading, weight="bold", **style)
        body = "\n".join(cells)
        figure.text(left / width, (top - 0.25) / height, body, linespacing=1.5, **style)
        left += _GUTTER


def table_size(columns: dict[str, list[str]]) -> Pair:
    """Return the width and height in inches of a table with these columns."""
    widths = [_column_width(heading, cells) for heading, cells in columns.items()]
    rows = max(len(cells) for cells in columns.values())
    return sum(widths) + _GUTTER * (len(widths) - 1), 0.3 + 0.205 * rows


def _column_width(heading: str, cells: list[str]) -> float:
    """Return the width of a column of a table in inches."""
    return max(text_width(heading, 9 * _BOLD), *(text_width(cell, 9) for cell in cells))


def label_points(
    axes: Axes, points: Doubles, texts: Sequence[str], obstacles: Doubles, pad: Pair, gap: float
) -> None:
    """Write each text beside its point, or leave it out if it would hide something.

    Earlier texts have precedence. The limits of the axes must be set.

    Args:
        axes: axes to write in.
        points: (texts, 2) x and y of each point, in data coordinates.
        texts: one text per point.
        obstacles: (boxes, 4) left, bottom, right and top of each box that must stay visible, in
            data coordinates.
        pad: inches added to the left and right, and to the bottom and top, of each obstacle.
        gap: inches between a point and its text.
    """
    size = np.array(axes.bbox.size) / DPI
    anchors = (axes.transData.transform(points) - axes.bbox.min) / DPI
    corners = (axes.transData.transform(obstacles.reshape(-1, 2)) - axes.bbox.min) / DPI
    ends = np.sort(corners.reshape(-1, 2, 2), axis=1) + np.array([[-1], [1]]) * pad
    taken = ends.reshape(-1, 4)
    for (x, y), text in zip(anchors, texts, strict=True):
        boxes = _boxes_beside(x, y, text_width(text, 8), gap)
        free = boxes[[_is_free(box, taken, size) for box in boxes]]
        if len(free):
            taken = np.vstack([taken, free[:1]])
            left, bottom, right, _ = free[0]
            _write(axes, np.array([(left + right) / 2, bottom]) / size, text)


def _boxes_beside(x: float, y: float, width: float, gap: float) -> Doubles:
    """Return the boxes beside a point in which a text can be placed, the best first."""
    height = LABEL_HEIGHT
    corners = [(x - width / 2, y + gap), (x - width / 2, y - gap - height)]
    for shift in _SHIFTS:
        level = y + (shift - 0.5) * height
        corners += [(x + gap, level), (x - gap - width, level)]
    return np.array([(left, low, left + width, low + height) for left, low in corners])


def _is_free(box: Doubles, taken: Doubles, size: Doubles) -> bool:
    """Return whether a box lies within axes of `size` and overlaps none of the taken boxes."""
    inside = (box[:2] >= 0).all() and (box[2:] <= size).all()
    overlaps = (box[:2] < taken[:, 2:]) & (taken[:, :2] < box[2:])
    return bool(inside and not overlaps.all(axis=1).any())


def _write(axes: Axes, position: Doubles, text: str) -> None:
    """Write a text with a white outline; `position` is the centre of its lower edge."""
    style: dict[str, Any] = {"size": 8, "family": FONT, "color": INK, "ha": "center"}
    x, y = position
    written = axes.text(x, y, text, transform=axes.transAxes, va="bottom", **style)
    written.set_path_effects([Stroke(linewidth=2, foreground="white"), Normal()])
