"""Figures of how alike prompts are, layer by layer: curves, and a heat map of many pairs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from math import ceil, log2
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from neuroscope.reporting.plot_layout import (
    FAINT,
    FONT,
    GRID,
    INK,
    MARGIN,
    WIDTH,
    Box,
    Floats,
    caption,
    color_bar,
    digits,
    page,
    place,
    plain,
    shorten,
    text_width,
    written,
)

Integers = NDArray[np.int64]
Curves = dict[str, Floats]
Line = tuple[NDArray[Any], Floats]  # layers and values, with NaN between curves

METRICS = {"cosine": "cosine similarity", "mse": "mean squared error"}
DISTANCES = ("mse",)  # small where prompts are alike
MOST_STYLES = 8  # pairs beyond which only the extreme ones are told apart
MOST_NUMBERS = 150  # cells beyond which a heat map shows no numbers
MOST_SPREAD = 300  # largest over smallest distance beyond which its axis is logarithmic
ROW = 2.2  # inches of a row of panels
HANDLE = 0.75  # inches of a sample line in a legend and the gaps around it

# Okabe and Ito's colours, without the yellow, which is lost on white
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8c8c8c")
MARKERS = "os^DvPX*"
DASHES = ("-", "--", "-.", ":")
MISSING: dict[str, Any] = {
    "facecolor": "#eeeeee",
    "edgecolor": "#b0b0b0",
    "hatch": "////",
    "linewidth": 0,
}


def plot_by_layer(
    layers: Sequence[int],
    series: Mapping[tuple[str, str], Mapping[str, Sequence[float | None]]],
    *,
    model: str,
    component: str,
    metrics: Sequence[str] = ("cosine", "mse"),
    views: Sequence[str] = ("aligned", "span", "context"),
) -> Figure:
    """Likeness of pairs of prompts by layer: one row of panels a metric, one column a view.

    `series` maps (metric, view) to the values of each pair, one a layer; None and NaN are not
    drawn. Beyond 8 pairs only their median and the pairs most and least alike are told apart, by
    their means over layers in the first panel. ValueError if a panel or every pair is missing,
    layers do not increase, or values are infinite or not one a layer.
    """
    numbers = _layers(layers)
    keys = [(metric, view) for metric in metrics for view in views]
    panels = {key: _curves(series, *key, numbers.size) for key in keys}
    pairs = list(dict.fromkeys(pair for curves in panels.values() for pair in curves))
    if not pairs:
        raise ValueError("there is no pair to draw")
    if len(pairs) <= MOST_STYLES:
        lines = {key: _each(numbers, curves) for key, curves in panels.items()}
        looks = dict(zip(pairs, _looks(), strict=False))
    else:
        ends = _ends(panels[keys[0]], *keys[0])
        lines = {key: _summary(numbers, curves, ends) for key, curves in panels.items()}
        looks = _summary_looks(ends)
    return _draw_panels(lines, looks, numbers, f"{model} · {component}")


def _layers(layers: Sequence[int]) -> Integers:
    numbers = np.asarray(layers, dtype=np.int64)
    if numbers.ndim != 1 or numbers.size == 0 or (np.diff(numbers) <= 0).any():
        raise ValueError(f"layers must be one or more increasing integers, not {list(layers)}")
    return numbers


def _curves(
    series: Mapping[tuple[str, str], Mapping[str, Sequence[float | None]]],
    metric: str,
    view: str,
    layers: int,
) -> Curves:
    if (metric, view) not in series:
        raise ValueError(f"series has no {metric} in the view {view}")
    curves = {}
    for pair, values in series[metric, view].items():
        curve = np.array([np.nan if value is None else value for value in values], np.float64)
        if curve.shape != (layers,) or np.isinf(curve).any():
            raise ValueError(
                f"{metric} in the view {view} of {pair} must be {layers} finite "
                f"values, one a layer, not {curve.tolist()}"
            )
        curves[pair] = curve
    return curves


def _each(layers: Integers, curves: Curves) -> dict[str, Line]:
    return {pair: (layers, curve) for pair, curve in curves.items()}


def _summary(layers: Integers, curves: Curves, ends: dict[str, str]) -> dict[str, Line]:
    """All curves as one line with gaps, their median, and the pairs at the `ends`."""
    gap = [np.nan]
    every = np.concatenate([part for curve in curves.values() for part in (curve, gap)] or [gap])
    return {
        "every pair": (np.tile(np.append(layers, layers[-1:]), len(curves)), every),
        "median": (layers, _median(list(curves.values()), layers.size)),
        **{name: (layers, curves[pair]) for name, pair in ends.items() if pair in curves},
    }


def _median(curves: list[Floats], layers: int) -> Floats:
    columns = np.reshape(curves, (-1, layers)).T
    known = [column[~np.isnan(column)] for column in columns]
    return np.array([np.median(column) if column.size else np.nan for column in known])


def _ends(curves: Curves, metric: str, view: str) -> dict[str, str]:
    """The pairs most and least alike by their means over layers, by how a legend names them."""
    known = {pair: curve[~np.isnan(curve)] for pair, curve in curves.items()}
    means = {pair: curve.mean() for pair, curve in known.items() if curve.size}
    ranked = sorted(means, key=means.__getitem__, reverse=metric not in DISTANCES)
    ends = {"most": ranked[:1], "least": ranked[1:][-1:]}
    return {
        f"{word} alike ({metric}, {view}): {pair}": pair
        for word, chosen in ends.items()
        for pair in chosen
    }


def _looks() -> Iterator[dict[str, Any]]:
    for color, marker, dash in zip(COLORS, MARKERS, cycle(DASHES), strict=False):
        yield {
            "color": color,
            "marker": marker,
            "linestyle": dash,
            "markersize": 4.5,
            "linewidth": 1.4,
        }


def _summary_looks(ends: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {
        "every pair": {"color": "#c4c4c4", "linewidth": 0.6, "marker": ".", "markersize": 2},
        "median": {"color": INK, "linewidth": 2.8, "marker": "D", "markersize": 3},
        **dict(zip(ends, _looks(), strict=False)),
    }


def _draw_panels(
    lines: dict[tuple[str, str], dict[str, Line]],
    looks: dict[str, dict[str, Any]],
    layers: Integers,
    title: str,
) -> Figure:
    """One row of panels a metric, one column a view, in the order of the keys of `lines`."""
    metrics, views = (list(dict.fromkeys(names)) for names in zip(*lines, strict=True))
    across, foot = _legend_shape(looks)
    figure = page(foot + ROW * len(metrics) + 0.25, title, ["pairs of prompts, by layer"])
    width = (WIDTH - 0.8 - MARGIN) / len(views)
    for row, metric in enumerate(reversed(metrics)):
        first = None
        for column, view in enumerate(views):
            box = (0.8 + column * width, foot + row * ROW, width - 0.15, ROW - 0.15)
            axes = place(figure, box, sharey=first)
            first = first or axes
            _draw_lines(axes, lines[metric, view], looks)
            _dress(axes, layers, width, labels=(row == 0, column == 0))
            if row == len(metrics) - 1:
                name = shorten(plain(view), 10, width - 0.3)
                axes.set_title(name, size=10, family=FONT, color=INK, pad=5)
            if column == 0:
                _scale(axes, [y for view in views for _, y in lines[metric, view].values()], metric)
    _legend(figure, looks, across)
    return figure


def _draw_lines(axes: Axes, lines: dict[str, Line], looks: dict[str, dict[str, Any]]) -> None:
    for name, (x, y) in lines.items():
        axes.plot(x, y, **looks[name])
    if all(np.isnan(y).all() for _, y in lines.values()):
        axes.text(0.5, 0.5, "n/a", transform=axes.transAxes, ha="center", color=FAINT, family=FONT)


def _dress(axes: Axes, layers: Integers, width: float, labels: tuple[bool, bool]) -> None:
    """Ticks at whole layers, at least 0.24 inches apart, and a light grid."""
    span = max(int(layers[-1] - layers[0]), 1)
    axes.set_xlim(layers[0] - 0.04 * span - 0.1, layers[-1] + 0.04 * span + 0.1)
    axes.set_xticks(layers[_thinned(layers, 0.24 * span / width)])
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelbottom=labels[0], labelleft=labels[1])
    if labels[0]:
        caption(axes, x="layer")


def _thinned(places: Integers, gap: float) -> list[int]:
    """Indices of those places that are at least `gap`, rounded up to a power of two, apart."""
    gap = 2 ** ceil(log2(gap)) if gap > 0 else 0
    kept = [0]
    for index, position in enumerate(places):
        if position - places[kept[-1]] >= gap and index:
            kept.append(index)
    return kept


def _scale(axes: Axes, curves: list[Floats], metric: str) -> None:
    name = METRICS.get(metric, metric)
    values = np.concatenate(curves)
    values = values[~np.isnan(values)]
    if metric in DISTANCES and values.size and 0 < values.min() < values.max() / MOST_SPREAD:
        axes.set_yscale("log")
        name += " (log scale)"
    caption(axes, axes.get_xlabel(), name)


def _legend_shape(names: Iterable[str]) -> tuple[int, float]:
    """How many columns the legend has, and the inches below the panels that it takes."""
    names = list(names)
    widest = max(text_width(plain(name), 9) for name in names)
    across = int(min(4, max(1, (WIDTH - 0.8) / (widest + HANDLE))))
    return across, 0.65 + 0.2 * ceil(len(names) / across)


def _legend(figure: Figure, looks: dict[str, dict[str, Any]], across: int) -> None:
    room = (WIDTH - 0.8 - MARGIN) / across - HANDLE
    wide, high = figure.get_size_inches()
    figure.legend(
        [Line2D([], [], **look) for look in looks.values()],
        [shorten(plain(name), 9, room) for name in looks],
        loc="lower left",
        bbox_to_anchor=(0.8 / wide, 0.08 / high),
        ncols=across,
        prop={"family": FONT, "size": 9},
        labelcolor=INK,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        handlelength=3,
    )


def plot_pairs_by_layer(
    layers: Sequence[int],
    pairs: Sequence[str],
    values: ArrayLike,
    *,
    model: str,
    component: str,
    metric: str,
    view: str,
) -> Figure:
    """Likeness of every pair at every layer as a heat map; `values` is (pairs, layers).

    NaN is drawn hatched, as n/a. ValueError if shapes do not match, layers do not increase, there
    is no pair, or values are infinite.
    """
    numbers, cells = _layers(layers), np.asarray(values, dtype=np.float64)
    if not len(pairs) or cells.shape != (len(pairs), numbers.size):
        raise ValueError(
            f"values of shape {cells.shape} must be (pairs, layers) = "
            f"({len(pairs)}, {numbers.size}), with at least one pair"
        )
    if np.isinf(cells).any():
        raise ValueError(f"values hold {np.isinf(cells).sum()} infinite value(s)")
    names = [shorten(plain(pair), 9, 3) for pair in pairs]
    left = MARGIN + 0.12 + max(text_width(name, 9) for name in names)
    size = (WIDTH - left - 1.15, _heat_height(*cells.shape))
    notes = [f"{METRICS.get(metric, metric)} of pairs of prompts, by layer; view: {view}"]
    figure = page(size[1] + 0.6, f"{model} · {component}", notes)
    axes = place(figure, (left, 0.5, *size))
    image = _heat(axes, cells)
    _name_sides(axes, size, numbers, names)
    if cells.size <= MOST_NUMBERS:
        _write_numbers(axes, image, cells, size)
    _heat_bar(
        figure, image, (left + size[0] + 0.15, 0.5, 0.16, size[1]), METRICS.get(metric, metric)
    )
    return figure


def _heat_height(pairs: int, layers: int) -> float:
    """Inches: rows of 0.42 for few pairs to 0.17 for many, and 11 at most."""
    return min(max(pairs * min(max(5 / pairs, 0.17), 0.42), 0.9), 11)


def _heat(axes: Axes, cells: Floats) -> AxesImage:
    known = cells[~np.isnan(cells)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    image = axes.imshow(
        np.ma.masked_invalid(cells),
        cmap="viridis",
        vmin=low,
        vmax=high,
        interpolation="nearest",
        aspect="auto",
    )
    axes.patch.set(**MISSING)  # seen where a cell is not drawn
    return image


def _name_sides(axes: Axes, size: tuple[float, float], layers: Integers, names: list[str]) -> None:
    columns = _thinned(np.arange(layers.size), 0.24 * layers.size / size[0])
    rows = _thinned(np.arange(len(names)), 0.13 * len(names) / size[1])
    axes.set_xticks(columns, [str(layers[column]) for column in columns])
    axes.set_yticks(rows, [names[row] for row in rows])
    axes.tick_params(axis="y", labelsize=9, labelcolor=INK)
    axes.tick_params(length=0)
    caption(axes, x="layer")
    if layers.size * len(names) <= MOST_NUMBERS:
        axes.set_xticks(np.arange(layers.size - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
        axes.tick_params(which="minor", length=0)
        axes.set_axisbelow(False)
        axes.grid(which="minor", color="white", linewidth=1)


def _write_numbers(axes: Axes, image: AxesImage, cells: Floats, size: tuple[float, float]) -> None:
    """Print the value of each known cell, upright where it does not fit across."""
    known = np.argwhere(~np.isnan(cells)).tolist()
    low, high = image.get_clim()
    spec = digits(np.array([high - low]), 2)
    texts = written((cells[row, column] for row, column in known), spec)
    long = max((text_width(text, 1) for text in texts), default=1.0)
    width, height = size[0] / cells.shape[1], size[1] / cells.shape[0]
    across, upright = min(width / long, 50 * height), min(height / long, 60 * width)
    points = 0.88 * max(across, upright if across < 7.5 else 0)
    if points < 4.5:
        return
    for (row, column), text in zip(known, texts, strict=True):
        red, green, blue, _ = image.to_rgba(cells[row, column])
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        axes.text(
            column,
            row,
            text,
            size=min(points, 9),
            color="white" if dark else INK,
            rotation=0 if points == 0.88 * across else 90,
            ha="center",
            va="center",
            family=FONT,
        )


def _heat_bar(figure: Figure, image: AxesImage, box: Box, name: str) -> None:
    color_bar(figure, image, box, [name], "neither")
    if np.ma.is_masked(image.get_array()):
        place = (box[0] / figure.get_figwidth(), 0)
        style: dict[str, Any] = {"prop": {"family": FONT, "size": 9}, "labelcolor": INK}
        key = [Patch(**MISSING)]
        figure.legend(key, ["n/a"], loc="lower left", bbox_to_anchor=place, frameon=False, **style)
