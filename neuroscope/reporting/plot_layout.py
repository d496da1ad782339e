"""What the figures of `plots` share: pages measured in inches, and text that fits and draws.

Nothing here sets matplotlib's global settings, so figures may be made in any thread.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from math import ceil, floor, log10
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

WIDTH = 10.0  # inches: 1,200 pixels at DPI
MARGIN = 0.15  # inches
DPI = 120
FONT = "DejaVu Sans"  # comes with matplotlib
INK, FAINT, RULE, GRID = "#222222", "#5f5f5f", "#bbbbbb", "#e4e4e4"
BOLD = 1.15  # how much wider bold letters are at most
LABEL_HEIGHT = 0.12  # inches
MINUS = "\N{MINUS SIGN}"
Floats = NDArray[np.float64]
Pair = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, width, height in inches

_KEPT = 800  # letters of a text that are looked at; no header holds more
_GUTTER = 0.16  # inches between the columns of a table
_SHIFTS = (0.0, -1.1, 1.1)  # up and down, in heights of a label


@cache
def _has_glyph(letter: str) -> bool:
    faces = [findfont(FontProperties(family=FONT, weight=weight)) for weight in ("normal", "bold")]
    return all(get_font(face).get_char_index(ord(letter)) for face in faces)


@cache
def _advance(letter: str) -> float:
    """Width of a letter, in units of the font size."""
    width, _, _ = text_to_path.get_text_width_height_descent(
        letter, FontProperties(family=FONT, size=100), False
    )
    return width / 100


def plain(text: str) -> str:
    """One line of `text` in which every letter has a glyph and no `$` starts mathematics."""
    words = " ".join(text.split())
    if len(words) > _KEPT:
        words = words[: _KEPT // 2] + "…" + words[-_KEPT // 2 :]
    drawn = (letter if letter.isprintable() and _has_glyph(letter) else "□" for letter in words)
    return "".join(drawn).replace("$", r"\$")


def text_width(text: str, size: float) -> float:
    """Inches that a line of plain text takes at most, at a font size in points."""
    pixels = [_advance(letter) * size * DPI / 72 for letter in text.replace(r"\$", "$")]
    return sum(map(ceil, pixels)) / DPI  # hinting widens letters to whole pixels


def shorten(text: str, size: float, width: float) -> str:
    """Plain text cut in its middle, so that it takes at most `width` inches."""
    if text_width(text, size) <= width:
        return text
    letters = text.replace(r"\$", "$")
    fewest, most = 0, len(letters)
    while fewest < most:
        kept = (fewest + most + 1) // 2
        if text_width(_cut(letters, kept), size) <= width:
            fewest = kept
        else:
            most = kept - 1
    return _cut(letters, fewest).replace("$", r"\$")


def _cut(letters: str, kept: int) -> str:
    head = ceil(kept * 0.6)
    return letters[:head].rstrip() + "…" + letters[len(letters) - (kept - head) :].lstrip()


def wrap(text: str, size: float, width: float, lines: int) -> list[str]:
    """Plain text as at most `lines` lines of at most `width` inches, cut in its middle if need be.

    Lines end between words, except in a word that is longer than a line.
    """
    room = width * lines
    while True:
        wrapped = _fill(shorten(text, size, room).replace(r"\$", "$"), size, width)
        if len(wrapped) <= lines:
            return [line.replace("$", r"\$") for line in wrapped]
        room *= 0.97


def _fill(letters: str, size: float, width: float) -> list[str]:
    lines = [""]
    for letter in letters:
        if text_width(lines[-1] + letter, size) > width and lines[-1]:
            head, _, word = lines[-1].rpartition(" ")
            if letter == " " or not head or text_width(word + letter, size) > width:
                head, word = lines[-1], ""
            lines[-1:] = [head, word]
        lines[-1] += letter
    return [line.strip() for line in lines]


def digits(values: Floats, shown: int = 3) -> str:
    """Format that shows so many digits of the smallest value that is not zero."""
    sizes = np.abs(values[values != 0])
    decimals = max(0, shown - 1 - floor(log10(sizes.min()))) if sizes.size else 2
    return "z.2e" if decimals > 5 or (sizes.size and sizes.max() >= 1e6) else f"z.{decimals}f"


def written(values: Iterable[float], spec: str) -> list[str]:
    """Numbers in a format, with a proper minus sign."""
    return [format(value, spec).replace("-", MINUS) for value in values]


def page(height: float, title: str, notes: Sequence[str]) -> Figure:
    """An empty figure with `height` inches below its title and notes, each of any length."""
    room = WIDTH - 2 * MARGIN
    heads = wrap(plain(title), 14 * BOLD, room, 2)
    lines = [line for note in notes for line in wrap(plain(note), 10, room, 2)]
    title_height = 0.03 + 0.25 * len(heads)
    total = height + MARGIN + title_height + 0.18 * len(lines) + 0.08
    figure = Figure(figsize=(WIDTH, total), dpi=DPI, facecolor="white")
    style: dict[str, Any] = {"ha": "left", "va": "top", "family": FONT}
    left, top = MARGIN / WIDTH, 1 - MARGIN / total
    below = top - title_height / total
    figure.text(left, top, "\n".join(heads), size=14, weight="bold", color=INK, **style)
    figure.text(left, below, "\n".join(lines), size=10, color=FAINT, linespacing=1.25, **style)
    return figure


def place(figure: Figure, box: Box, **options: Any) -> Axes:
    """Axes that fill a box of inches from the lower left corner of the figure."""
    wide, high = figure.get_size_inches()
    left, bottom, width, height = box
    area = (left / wide, bottom / high, width / wide, height / high)
    axes: Axes = figure.add_axes(area, **options)
    axes.tick_params(labelsize=8.5, labelfontfamily=FONT, labelcolor=FAINT, color=RULE, length=3)
    axes.spines[:].set(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def caption(axes: Axes, x: str = "", y: str = "") -> None:
    """Name the axes that are given a name, in at most two lines each."""
    style: dict[str, Any] = {"size": 9, "family": FONT, "color": INK}
    if x:
        axes.set_xlabel("\n".join(wrap(plain(x), 9, axes.bbox.width / DPI, 2)), **style)
    if y:
        axes.set_ylabel("\n".join(wrap(plain(y), 9, axes.bbox.height / DPI, 2)), **style)


def color_bar(
    figure: Figure, image: AxesImage, box: Box, names: Sequence[str], extend: str
) -> None:
    """A colour bar in a box of inches, with names of at most two lines each."""
    lines = [line for name in names for line in wrap(plain(name), 8.5, box[3], 2)]
    bar = figure.colorbar(image, cax=place(figure, box), extend=extend)
    bar.set_label("\n".join(lines), size=8.5, family=FONT, color=INK)
    bar.outline.set(edgecolor=RULE, linewidth=0.8)


def table(figure: Figure, right: float, top: float, columns: dict[str, list[str]]) -> None:
    """Right-aligned columns under their heads; the corner is given in inches."""
    wide, high = figure.get_size_inches()
    left = right - table_size(columns)[0]
    rule = [left / wide, right / wide], [(top - 0.2) / high] * 2
    figure.add_artist(Line2D(*rule, color=RULE, linewidth=0.8))
    style: dict[str, Any] = {"ha": "right", "va": "top", "family": FONT, "size": 9, "color": INK}
    for head, cells in columns.items():
        left += _column_width(head, cells)
        figure.text(left / wide, top / high, head, weight="bold", **style)
        body = "\n".join(cells)
        figure.text(left / wide, (top - 0.25) / high, body, linespacing=1.5, **style)
        left += _GUTTER


def table_size(columns: dict[str, list[str]]) -> Pair:
    """Inches that `table` takes: width and height."""
    widths = [_column_width(head, cells) for head, cells in columns.items()]
    rows = max(len(cells) for cells in columns.values())
    return sum(widths) + _GUTTER * (len(widths) - 1), 0.3 + 0.205 * rows


def _column_width(head: str, cells: list[str]) -> float:
    return max(text_width(head, 9 * BOLD), *(text_width(cell, 9) for cell in cells))


def label(
    axes: Axes, points: Floats, texts: Sequence[str], drawn: Floats, pad: Pair, gap: float
) -> None:
    """Write each text `gap` inches beside its point, or nowhere if it would hide what is drawn.

    `points` is (texts, 2): x, y; `drawn` is (boxes, 4): left, bottom, right, top, both as the axes
    count, whose limits must be set; `pad` inches are added to each side of the boxes. Earlier texts
    have the first choice.
    """
    size = np.array(axes.bbox.size) / DPI
    places = (axes.transData.transform(points) - axes.bbox.min) / DPI
    corners = (axes.transData.transform(drawn.reshape(-1, 2)) - axes.bbox.min) / DPI
    ends = np.sort(corners.reshape(-1, 2, 2), axis=1) + np.array([[-1], [1]]) * pad
    taken = ends.reshape(-1, 4)
    for (x, y), text in zip(places, texts, strict=True):
        boxes = _beside(x, y, text_width(text, 8), gap)
        free = boxes[[_free(box, taken, size) for box in boxes]]
        if len(free):
            taken = np.vstack([taken, free[:1]])
            left, bottom, right, _ = free[0]
            _write(axes, np.array([(left + right) / 2, bottom]) / size, text)


def _beside(x: float, y: float, width: float, gap: float) -> Floats:
    """Boxes around a point that a text could fill, the best first."""
    height = LABEL_HEIGHT
    corners = [(x - width / 2, y + gap), (x - width / 2, y - gap - height)]
    for shift in _SHIFTS:
        level = y + (shift - 0.5) * height
        corners += [(x + gap, level), (x - gap - width, level)]
    return np.array([(left, low, left + width, low + height) for left, low in corners])


def _free(box: Floats, taken: Floats, size: Floats) -> bool:
    inside = (box[:2] >= 0).all() and (box[2:] <= size).all()
    hidden = (box[:2] < taken[:, 2:]) & (taken[:, :2] < box[2:])
    return bool(inside and not hidden.all(axis=1).any())


def _write(axes: Axes, position: Floats, text: str) -> None:
    drawn = axes.text(
        position[0],
        position[1],
        text,
        transform=axes.transAxes,
        size=8,
        family=FONT,
        color=INK,
        ha="center",
        va="bottom",
    )
    drawn.set_path_effects([Stroke(linewidth=2, foreground="white"), Normal()])
