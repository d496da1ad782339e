"""Figure of single neurons in two models, one against the other: a point per prompt, or density."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from neuroscope.reporting.plots.layout import (
    FAINT,
    INK,
    WIDTH,
    Pair,
    add_axes,
    add_color_bar,
    label_axes,
    page,
)
from neuroscope.reporting.plots.legend import COLORS, MARKERS, Entry, Legend
from neuroscope.reporting.plots.scales import style_grid
from neuroscope.reporting.plots.text import (
    FONT,
    MINUS,
    Doubles,
    format_numbers,
    plain,
    text_width,
    wrap,
)

Style = dict[str, Any]  # matplotlib's properties of points
Points = tuple[Doubles, Doubles]  # base and candidate activations of one neuron, each (prompts,)

MOST_POINTS = 5000  # number of prompts above which their density is drawn
MOST_TOPICS = 7  # number of topics that have a colour of their own
COLUMNS = (1, 2, 3, 2, 3, 3)  # columns of panels, by their number
HEXAGONS = 45  # hexagons along a side
FIRST_INSET, INSET = 0.95, 0.65  # inches left of the first column and of the others
FOOT, TICKS = 0.6, 0.3  # inches below the lowest panels and below the others
MOST_SIDE, LEAST_WIDTH = 4.2, 5.0  # inches: largest side of a panel, and least width of the page
RIGHT, BAR = 0.3, 1.1  # inches right of the panels, without and with a colour bar
TICK_GAP = 0.12  # inches between the labels of neighbouring ticks
TURNS = 10  # topics are drawn in turns, a tenth of their prompts each, so that none hides another
TITLE_LINE, LABEL_LINE = 0.17, 0.16  # inches per line of the title of a panel, and of a label
DIAGONAL: Style = {"color": FAINT, "linewidth": 1, "linestyle": (0, (4, 2)), "zorder": 3}
OTHER = "other"  # name in the legend of topics without a colour of their own
OTHERS: Style = {"color": "#b0b0b0", "marker": "o", "zorder": 1.9}  # below the other points


@dataclass(frozen=True)
class NeuronPair:
    """Activations of one neuron in two models, for the same prompts in the same order.

    >>> neuron = NeuronPair("mlp_act.3 neuron 17", [0.1, 0.9, 0.4], [0.2, 0.8, 0.4], 0.012)
    """

    name: str
    """Name of the neuron."""
    base: ArrayLike
    """(prompts,) activations in the base model."""
    candidate: ArrayLike
    """(prompts,) activations in the candidate model."""
    distance: float
    """1 - r, where r is their correlation; NaN if it is not defined."""


@dataclass(frozen=True)
class _Frame:
    """Position of the panels in inches, the lowest row `foot` inches above the bottom."""

    columns: int
    rows: int
    side: float  # side of a square panel
    title: float  # height above each panel
    width: float  # width of the page
    foot: float

    @property
    def height(self) -> float:
        """Height of the page below its heading."""
        return self.foot + self.rows * (self.side + self.title) + (self.rows - 1) * TICKS

    def left(self, column: int) -> float:
        """Return the left edge of a column of panels."""
        return FIRST_INSET + column * (self.side + INSET)

    def bottom(self, row: int) -> float:
        """Return the lower edge of a row of panels; row 0 is the highest."""
        below = self.rows - 1 - row
        return self.foot + below * (self.side + self.title + TICKS)


@dataclass(frozen=True)
class _Group:
    """Prompts that look the same."""

    name: str  # name in the legend
    style: Style
    members: NDArray[np.bool_]  # (prompts,)


def plot_neuron_pairs(
    neurons: Sequence[NeuronPair],
    *,
    topics: Sequence[str] | None = None,
    x_label: str,
    y_label: str,
    title: str,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw a panel per neuron, in which each prompt is a point: base against candidate.

    Prompts that did not change lie on the diagonal. The 7 topics with the most prompts have a
    colour and a shape of their own; all others are grey. Above 5,000 prompts the number of prompts
    per hexagon is drawn instead of points and topics.

    Args:
        neurons: one to six neurons, all with the same prompts.
        topics: topic of each prompt; prompts with an empty topic are among the others.
        x_label: quantity and model of the base activations.
        y_label: quantity and model of the candidate activations.
        title: heading of the figure.
        notes: lines below the title.

    Raises:
        ValueError: if there are no or more than six neurons, activations are not finite or differ
            in number between neurons, models and topics.
    """
    points = _points(neurons, topics)
    prompts = points[0][0].size
    is_dense = prompts > MOST_POINTS
    groups = [] if is_dense else _groups(topics, prompts)
    if is_dense and topics is not None:
        notes = [*notes, f"topics are not shown above {MOST_POINTS:,} prompts"]
    frame, legend = _arrange(neurons, _entries(groups), x_label, is_dense)
    figure = page(frame.height, title, notes, frame.width)
    hexagons = []
    for number, (neuron, pair) in enumerate(zip(neurons, points, strict=True)):
        axes = _add_panel(figure, frame, number, neuron)
        is_lowest = number + frame.columns >= len(neurons)
        label_axes(axes, x_label * is_lowest, y_label * (number % frame.columns == 0))
        limits = _limits(pair)
        if is_dense:
            hexagons.append(_draw_density(axes, pair, limits))
        else:
            _draw_points(axes, pair, groups)
        axes.plot(limits, limits, **DIAGONAL)
        _set_ticks(axes, limits, frame.side)
    if is_dense:
        _add_density_bar(figure, frame, hexagons)
    legend.draw(figure)
    return figure


def _points(neurons: Sequence[NeuronPair], topics: Sequence[str] | None) -> list[Points]:
    """Return the activations of each neuron; raise ValueError if they cannot be drawn."""
    if not 1 <= len(neurons) <= len(COLUMNS):
        raise ValueError(f"there must be 1 to {len(COLUMNS)} neurons, not {len(neurons)}")
    points = [
        (np.asarray(neuron.base, np.float64), np.asarray(neuron.candidate, np.float64))
        for neuron in neurons
    ]
    prompts = points[0][0].shape if topics is None else (len(topics),)
    for neuron, pair in zip(neurons, points, strict=True):
        shapes = [values.shape for values in pair]
        if shapes != [prompts, prompts] or len(prompts) != 1 or not pair[0].size:
            raise ValueError(
                f"activations of {neuron.name!r} have the shapes {shapes}; both must be (prompts,),"
                f" as for the other neurons and the topics: {prompts}"
            )
        if not np.isfinite(pair).all():
            raise ValueError(f"activations of {neuron.name!r} are not all finite")
    return points


def _groups(topics: Sequence[str] | None, prompts: int) -> list[_Group]:
    """Return the prompts of each topic that has a colour, and of all others."""
    if topics is None:
        style = {"color": COLORS[0], "marker": MARKERS[0]}
        return [_Group("", style, np.ones(prompts, dtype=bool))]
    named = [topic for topic, _ in Counter(filter(None, topics)).most_common(MOST_TOPICS)]
    groups = [
        _Group(topic, {"color": color, "marker": marker}, np.array([t == topic for t in topics]))
        for topic, color, marker in zip(named, COLORS, MARKERS, strict=False)
    ]
    others = np.array([topic not in named for topic in topics])
    if others.any():
        groups += [_Group(OTHER, OTHERS, others)]
    return groups


def _entries(groups: list[_Group]) -> list[Entry]:
    """Return the entries of the legend: the topics and the diagonal."""
    points: Style = {"linestyle": "", "markersize": 6, "markeredgewidth": 0}
    topics = [(group.name, Line2D([], [], **group.style, **points)) for group in groups]
    return [*topics, ("candidate = base", Line2D([], [], **DIAGONAL))]


def _arrange(
    neurons: Sequence[NeuronPair], entries: list[Entry], x_label: str, is_dense: bool
) -> tuple[_Frame, Legend]:
    """Return the position of the panels and the legend below them."""
    columns = COLUMNS[len(neurons) - 1]
    right = BAR if is_dense else RIGHT
    room = WIDTH - FIRST_INSET - (columns - 1) * INSET - right
    side = min(MOST_SIDE, room / columns)
    width = max(FIRST_INSET + columns * side + (columns - 1) * INSET + right, LEAST_WIDTH)
    legend = Legend(entries, FIRST_INSET, width - FIRST_INSET - RIGHT)
    title = TITLE_LINE * max(len(_title(neuron, side)) for neuron in neurons) + 0.1
    foot = FOOT + LABEL_LINE * (len(wrap(plain(x_label), 9, side, 2)) - 1) + legend.height
    return _Frame(columns, ceil(len(neurons) / columns), side, title, width, foot), legend


def _title(neuron: NeuronPair, width: float) -> list[str]:
    """Return the title of a panel in lines of at most `width` inches."""
    size = format_numbers([neuron.distance], ".3g")[0] if np.isfinite(neuron.distance) else "n/a"
    return [*wrap(plain(neuron.name), 10, width, 2), f"1 {MINUS} r = {size}"]


def _add_panel(figure: Figure, frame: _Frame, number: int, neuron: NeuronPair) -> Axes:
    """Add the empty axes of a neuron, row by row, with their title."""
    row, column = divmod(number, frame.columns)
    axes = add_axes(figure, (frame.left(column), frame.bottom(row), frame.side, frame.side))
    title = "\n".join(_title(neuron, frame.side))
    axes.set_title(title, y=1, size=10, family=FONT, color=INK, pad=5)
    style_grid(axes)
    return axes


def _limits(pair: Points) -> Pair:
    """Return the limits of both axes of a panel."""
    low, high = np.min(pair), np.max(pair)
    pad = 0.05 * (high - low) or abs(low) / 20 or 0.05
    return float(low - pad), float(high + pad)


def _set_ticks(axes: Axes, limits: Pair, side: float) -> None:
    """Set the limits and ticks of both axes, as many as fit below a panel of `side` inches."""
    low, high = limits
    for intervals in (5, 4, 3, 2, 1):
        locator = MaxNLocator(intervals, steps=[1, 2, 4, 5, 10])
        ticks = np.asarray(locator.tick_values(low, high))
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        texts = format_numbers(ticks.tolist(), "zg")
        widest = max((text_width(text, 8.5) for text in texts), default=0)
        if (np.diff(ticks) * side / (high - low) >= widest + TICK_GAP).all():
            break
    axes.set(xlim=limits, ylim=limits)
    axes.set_xticks(ticks, texts)
    axes.set_yticks(ticks, texts)


def _draw_points(axes: Axes, pair: Points, groups: list[_Group]) -> None:
    """Draw a point per prompt, smaller if there are many."""
    size = min(max(90 / pair[0].size ** 0.5, 1.5), 5)
    look: Style = {"linestyle": "", "alpha": 0.7, "markeredgewidth": 0, "markersize": size}
    for turn in range(TURNS):
        for group in groups:
            x, y = (values[group.members][turn::TURNS] for values in pair)
            axes.plot(x, y, **group.style, **look)


def _draw_density(axes: Axes, pair: Points, limits: Pair) -> PolyCollection:
    """Draw the number of prompts per hexagon."""
    style: Style = {"mincnt": 1, "cmap": "viridis", "linewidths": 0.2}
    return axes.hexbin(*pair, gridsize=HEXAGONS, extent=(*limits, *limits), **style)


def _add_density_bar(figure: Figure, frame: _Frame, hexagons: list[PolyCollection]) -> None:
    """Give the hexagons of all panels the same colours, and add their colour bar."""
    most = max(np.asarray(artist.get_array()).max() for artist in hexagons)
    norm = LogNorm(1, max(most, 2))
    for artist in hexagons:
        artist.set_norm(norm)
    left, bottom = frame.left(frame.columns) - INSET + 0.15, frame.bottom(frame.rows - 1)
    box = (left, bottom, 0.16, frame.bottom(0) + frame.side - bottom)
    bar = add_color_bar(figure, hexagons[0], box, ["prompts per hexagon (log)"], "neither")
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.ax.minorticks_off()
