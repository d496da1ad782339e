"""Figures of how alike prompts are, layer by layer: curves, and a heat map of many pairs."""

from collections.abc import Iterator, Mapping, Sequence
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
    DPI,
    FAINT,
    FONT,
    GRID,
    INK,
    MARGIN,
    WIDTH,
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
Series = Mapping[tuple[str, str], Mapping[str, Sequence[float | None]]]
Curves = dict[str, Floats]
Look = dict[str, Any]  # how a line is drawn

METRICS = {
    "cosine": "cosine similarity",
    "mse": "mean squared error",
    "cosine_z": "standardised cosine similarity",
}
DISTANCES = ("mse",)  # small where prompts are alike
MOST_STYLES = 8  # pairs beyond which only the extreme ones are told apart
MOST_NUMBERS = 150  # cells beyond which a heat map shows no numbers
MOST_SPREAD = 300  # largest over smallest distance beyond which its axis is logarithmic
ROW = 2.2  # inches of a row of panels
LEAST_POINTS = 4.5  # size below which the numbers of a heat map cannot be read
HANDLE = 0.75  # inches of a sample line in a legend and the gaps around it

# Okabe and Ito's colours, without the yellow, which is lost on white
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8c8c8c")
MARKERS = "os^DvPX*"
DASHES = ("-", "--", "-.", ":")
SUMMARY_LOOKS: dict[str, Look] = {
    "every pair": {"color": "#c4c4c4", "linewidth": 0.6, "marker": ".", "markersize": 2},
    "median": {"color": INK, "linewidth": 2.8, "marker": "D", "markersize": 3},
}
LEGEND: dict[str, Any] = {
    "loc": "lower left",
    "frameon": False,
    "labelcolor": INK,
    "prop": {"family": FONT, "size": 9},
}
MISSING: dict[str, Any] = dict(facecolor="#eeeeee", edgecolor="#b0b0b0", hatch="////", linewidth=0)


def plot_by_layer(
    layers: Sequence[int],
    series: Series,
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
    looks = dict(zip(pairs, _looks(numbers.size), strict=False))
    if len(pairs) > MOST_STYLES:
        ends = _ends(panels[keys[0]], *keys[0])
        panels = {key: _summary(curves, numbers.size, ends) for key, curves in panels.items()}
        looks = SUMMARY_LOOKS | dict(zip(ends, _looks(numbers.size), strict=False))
    heading = f"{model} · {component}", [_counted(len(pairs), numbers.size)]
    return _draw_panels(panels, looks, numbers, heading)


def _layers(layers: Sequence[int]) -> Integers:
    numbers = np.asarray(layers)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or (np.diff(numbers) <= 0).any():
        raise ValueError(f"layers must be one or more increasing integers, not {layers}")
    return numbers.astype(np.int64)


def _curves(series: Series, metric: str, view: str, layers: int) -> Curves:
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


def _summary(curves: Curves, layers: int, ends: dict[str, str]) -> Curves:
    """All curves as one, each followed by a NaN; their median; and the pairs at the `ends`."""
    every = np.array([np.append(curve, np.nan) for curve in curves.values()])
    return {
        "every pair": every.ravel(),
        "median": _median(list(curves.values()), layers),
        **{name: curves[pair] for name, pair in ends.items() if pair in curves},
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


def _looks(layers: int) -> Iterator[Look]:
    size = min(max(100 / layers, 3), 4.5)  # points
    for color, marker, dash in zip(COLORS, MARKERS, cycle(DASHES), strict=False):
        look = {"color": color, "marker": marker, "linestyle": dash}
        yield {**look, "markersize": size, "linewidth": 1.4}


def _counted(pairs: int, layers: int) -> str:
    return f"pairs of prompts: {pairs:,}; layers: {layers}"


def _draw_panels(
    panels: dict[tuple[str, str], Curves],
    looks: dict[str, Look],
    layers: Integers,
    heading: tuple[str, list[str]],
) -> Figure:
    """One row of panels a metric, one column a view, in the order of the keys of `panels`."""
    metrics, views = (list(dict.fromkeys(names)) for names in zip(*panels, strict=True))
    across, foot = _legend_shape(list(looks))
    figure = page(foot + ROW * len(metrics) + 0.2, *heading)
    width = (WIDTH - 0.8 - MARGIN) / len(views)
    for row, metric in enumerate(metrics):
        bottom, first = foot + ROW * (len(metrics) - 1 - row), len(figure.axes)
        for column, view in enumerate(views):
            box = (0.8 + column * width, bottom, width - 0.15, ROW - 0.15)
            axes = place(figure, box, sharey=figure.axes[first] if column else None)
            _draw_curves(axes, layers, panels[metric, view], looks)
            _dress(axes, layers, width)
            axes.tick_params(labelbottom=metric == metrics[-1], labelleft=view == views[0])
            if metric == metrics[-1]:
                caption(axes, "layer")
            if metric == metrics[0]:
                name = shorten(plain(view), 10, width - 0.3)
                axes.set_title(name, y=1, size=10, family=FONT, color=INK, pad=5)
        _scale(figure.axes[first], metric, [panels[metric, view] for view in views])
    _legend(figure, looks, across)
    return figure


def _draw_curves(axes: Axes, layers: Integers, curves: Curves, looks: dict[str, Look]) -> None:
    for name, curve in curves.items():
        x = layers if curve.size == layers.size else np.append(layers, layers[-1:])
        axes.plot(np.resize(x, curve.size), curve, **looks[name])
    if all(np.isnan(curve).all() for curve in curves.values()):
        axes.text(0.5, 0.5, "n/a", transform=axes.transAxes, ha="center", color=FAINT, family=FONT)


def _dress(axes: Axes, layers: Integers, width: float) -> None:
    """Ticks at whole layers, at least 0.24 inches apart, and a light grid."""
    span = max(int(layers[-1] - layers[0]), 1)
    axes.set_xlim(layers[0] - 0.04 * span - 0.1, layers[-1] + 0.04 * span + 0.1)
    axes.set_xticks(layers[_thinned(layers, 0.24 * span / width)])
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", bottom=False, left=False)


def _thinned(places: Integers, gap: float) -> list[int]:
    """Indices of those places that are at least `gap`, rounded up to a power of two, apart."""
    kept = [0]
    for index in range(1, places.size):
        if places[index] - places[kept[-1]] >= 2 ** ceil(log2(gap)):
            kept.append(index)
    return kept


def _scale(axes: Axes, metric: str, panels: list[Curves]) -> None:
    """Name the values of a row of panels; a distance that spans decades is logarithmic."""
    name = METRICS.get(metric, metric)
    curves = [curve[~np.isnan(curve)] for panel in panels for curve in panel.values()]
    low = min((curve.min() for curve in curves if curve.size), default=0)
    high = max((curve.max() for curve in curves if curve.size), default=0)
    if metric in DISTANCES and 0 < low < high / MOST_SPREAD:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        name += " (log)"
    caption(axes, y=name)


def _legend_shape(names: list[str]) -> tuple[int, float]:
    """How many columns the legend has, and the inches below the panels that it takes."""
    widest = max(text_width(plain(name), 9) for name in names)
    across = int(min(4, max(1, (WIDTH - 0.8 - MARGIN) / (widest + HANDLE))))
    return across, 0.6 + 0.2 * ceil(len(names) / across)


def _legend(figure: Figure, looks: dict[str, Look], across: int) -> None:
    room = (WIDTH - 0.8 - MARGIN) / across - HANDLE
    wide, high = figure.get_size_inches()
    lines = [Line2D([], [], **look) for look in looks.values()]
    style = {"borderaxespad": 0, "borderpad": 0, "handlelength": 3, "ncols": across}
    corner = (0.8 / wide, 0.08 / high)
    legend = figure.legend(lines, [""] * len(lines), bbox_to_anchor=corner, **LEGEND, **style)
    for text, name in zip(legend.get_texts(), looks, strict=True):
        # set here, as matplotlib leaves out lines whose label starts with an underscore
        text.set_text(shorten(plain(name), 9, room))


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
    size = (WIDTH - left - 1.15, _heat_height(len(pairs)))
    notes = [f"{METRICS.get(metric, metric)}; view: {view}", _counted(*cells.shape)]
    figure = page(size[1] + 0.6, f"{model} · {component}", notes)
    axes = place(figure, (left, 0.5, *size))
    image = _heat(axes, cells)
    _name_sides(axes, numbers, names)
    if cells.size <= MOST_NUMBERS:
        _separate(axes, cells.shape)
        _write_numbers(axes, image, cells)
    bar = (left + size[0] + 0.15, 0.5, 0.16, size[1])
    color_bar(figure, image, bar, [METRICS.get(metric, metric)], "neither")
    if np.isnan(cells).any():
        corner = (bar[0] / WIDTH, 0)
        figure.legend([Patch(**MISSING)], ["n/a"], bbox_to_anchor=corner, **LEGEND)
    return figure


def _heat_height(pairs: int) -> float:
    """Inches: rows of 0.42 for few pairs to 0.17 for many, and 11 at most."""
    return min(max(pairs * min(max(5 / pairs, 0.17), 0.42), 0.9), 11)


def _heat(axes: Axes, cells: Floats) -> AxesImage:
    known = cells[~np.isnan(cells)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    if np.isclose(low, high, rtol=1e-9, atol=0):
        pad = abs(low) / 20 or 0.05
        low, high = low - pad, high + pad
    axes.patch.set(**MISSING)  # seen where a cell is not drawn
    style: dict[str, Any] = {"interpolation": "nearest", "aspect": "auto", "cmap": "viridis"}
    return axes.imshow(np.ma.masked_invalid(cells), vmin=low, vmax=high, **style)


def _name_sides(axes: Axes, layers: Integers, names: list[str]) -> None:
    columns = _thinned(np.arange(layers.size), 0.24 * DPI * layers.size / axes.bbox.width)
    rows = _thinned(np.arange(len(names)), 0.13 * DPI * len(names) / axes.bbox.height)
    axes.set_xticks(columns, [str(layers[column]) for column in columns])
    axes.set_yticks(rows, [names[row] for row in rows])
    axes.tick_params(axis="y", labelsize=9, labelcolor=INK)
    axes.tick_params(length=0)
    step = rows[1] if len(rows) > 1 else 1
    caption(axes, "layer" if step == 1 else f"layer   (one pair in {step} is named)")


def _separate(axes: Axes, shape: tuple[int, ...]) -> None:
    """White lines between cells."""
    axes.set_yticks(np.arange(shape[0] - 1) + 0.5, minor=True)
    axes.set_xticks(np.arange(shape[1] - 1) + 0.5, minor=True)
    axes.tick_params(which="minor", length=0)
    axes.set_axisbelow(False)
    axes.grid(which="minor", color="white", linewidth=1)


def _write_numbers(axes: Axes, image: AxesImage, cells: Floats) -> None:
    """Print the value of each known cell, upright if it does not fit across, if it fits at all."""
    known = np.argwhere(~np.isnan(cells)).tolist()
    low, high = image.get_clim()
    spec = digits(np.array([high - low]), 2)
    texts = written((cells[row, column] for row, column in known), spec)
    widest = max((text_width(text, 8) for text in texts), default=1.0) / 8  # at one point
    width, height = axes.bbox.width / DPI / cells.shape[1], axes.bbox.height / DPI / cells.shape[0]
    across, upright = min(width / widest, 58 * height), min(height / widest, 58 * width)
    turned = across < 8 and upright > across
    points = min(0.86 * (upright if turned else across), 9)
    if points < LEAST_POINTS:
        return
    style = {"size": points, "rotation": 90 * turned, "ha": "center", "va": "center"}
    for (row, column), text in zip(known, texts, strict=True):
        color = _contrast(image.to_rgba(cells[row, column]))
        axes.text(column, row, text, color=color, family=FONT, **style)


def _contrast(color: NDArray[Any]) -> str:
    """Ink or white, whichever stands out more from a colour."""
    red, green, blue = (part**2.2 for part in color[:3])
    return "white" if 0.21 * red + 0.72 * green + 0.07 * blue < 0.21 else INK
