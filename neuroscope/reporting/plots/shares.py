"""Figure of shares in per cent with their intervals, each beside that of its control."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from neuroscope.reporting.plots.layout import INK, MARGIN, WIDTH, add_axes, label_axes, page
from neuroscope.reporting.plots.legend import COLORS, REFERENCE, REFERENCE_DASHES, Entry, Legend
from neuroscope.reporting.plots.scales import style_grid
from neuroscope.reporting.plots.text import FONT, plain, shorten, text_width

Style = dict[str, Any]  # matplotlib's properties of a point or a line

ROW, HEADING = 0.36, 0.2  # inches per share, and above each group
LONGEST = 3.2  # inches of a name
FOOT = 0.6  # inches between the axes and the legend
SHIFT = 0.16  # distance of a point from the middle of its row, in rows
LOOKS: tuple[Style, Style] = (
    {"color": COLORS[0], "marker": "o", "markersize": 6.5},
    {"color": COLORS[1], "marker": "s", "markersize": 6, "markerfacecolor": "white"},
)
"""Looks of a share and of its control."""
EVEN: Style = {**REFERENCE, "linestyle": REFERENCE_DASHES[1]}


@dataclass(frozen=True)
class Interval:
    """Share with its interval, all in per cent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SharePair:
    """Share of some cases, and the share of their controls.

    >>> SharePair("gender (262)", Interval(58, 52, 64), Interval(50, 44, 56), group="bias_type")
    """

    name: str
    """Name beside the row."""
    share: Interval
    control: Interval
    group: str = ""
    """Heading above the first row of a group; empty for none."""


def plot_shares(
    pairs: Sequence[SharePair],
    *,
    names: tuple[str, str],
    x_label: str,
    title: str,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw a row per share: its point and interval, those of its control, and the line of 50 %.

    Args:
        pairs: shares with their controls, from top to bottom; those of a group follow one another.
        names: names of the shares and of the controls in the legend.
        x_label: label of the axis of per cent.
        title: heading of the figure.
        notes: lines below the title.

    Raises:
        ValueError: there is no share, or a number is not finite or not within its interval.
    """
    _check(pairs)
    handles = [Line2D([], [], **look, linewidth=1.6) for look in LOOKS]
    entries: list[Entry] = [*zip(names, handles, strict=True), ("50 %", Line2D([], [], **EVEN))]
    widest = max(text_width(plain(pair.name), 9) for pair in pairs)
    left = min(widest, LONGEST) + 0.35
    legend = Legend(entries, left, WIDTH - left - MARGIN)
    y, headings = _positions(pairs)
    height = ROW * (y[-1] + 1)
    figure = page(FOOT + legend.height + height, title, notes)
    box = (left, FOOT + legend.height, WIDTH - left - MARGIN, height)
    axes = add_axes(figure, box)
    style_grid(axes)
    _draw(axes, pairs, y)
    axes.set(ylim=(y[-1] + 0.6, -0.6 - bool(pairs[0].group) * 0.4), xlim=_limits(pairs))
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.set_yticks(y, [shorten(plain(pair.name), 9, LONGEST) for pair in pairs])
    axes.tick_params(axis="y", labelsize=9, labelcolor=INK)
    for position, heading in headings:
        axes.annotate(
            shorten(plain(heading), 9, LONGEST),
            (0, position),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            size=9,
            weight="bold",
            family=FONT,
            color=INK,
        )
    label_axes(axes, x_label)
    legend.draw(figure)
    return figure


def _check(pairs: Sequence[SharePair]) -> None:
    """Raise ValueError unless every share can be drawn."""
    if not pairs:
        raise ValueError("there is no share to draw")
    for pair in pairs:
        for each in (pair.share, pair.control):
            if not each.low <= each.value <= each.high:  # NaN is not
                raise ValueError(f"{each} of {pair.name!r} needs low <= value <= high")


def _positions(pairs: Sequence[SharePair]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the position of each row, and the position and text of each heading, in rows."""
    y: list[float] = []
    headings = []
    at, group = 0.0, ""
    for pair in pairs:
        if pair.group and pair.group != group:
            at += 0.35 * bool(y)
            headings.append((at - 0.05 * bool(y), pair.group))
            at += 0.75
        group = pair.group
        y.append(at)
        at += 1
    return y, headings


def _limits(pairs: Sequence[SharePair]) -> tuple[float, float]:
    """Return the limits of the axis of per cent, which include 50."""
    ends = [end for pair in pairs for end in (pair.share, pair.control)]
    low, high = min(50, *(end.low for end in ends)), max(50, *(end.high for end in ends))
    pad = 0.04 * (high - low) or 1
    return low - pad, high + pad


def _draw(axes: Axes, pairs: Sequence[SharePair], y: Sequence[float]) -> None:
    """Draw the points with their intervals, and the line of 50 %."""
    axes.axvline(50, **EVEN)
    for look, shift, each in (
        (LOOKS[0], -SHIFT, [pair.share for pair in pairs]),
        (LOOKS[1], SHIFT, [pair.control for pair in pairs]),
    ):
        rows = np.array(y) + shift
        value, low, high = np.transpose([(share.value, share.low, share.high) for share in each])
        axes.hlines(rows, low, high, color=look["color"], linewidth=1.6)
        axes.plot(value, rows, linestyle="", **look)
