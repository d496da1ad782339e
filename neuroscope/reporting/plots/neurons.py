"""Figures of one layer neuron by neuron: one prompt, or the difference between two.

A layer of up to 1,024 neurons is drawn as stems, a larger one as a grid of cells.
"""

from math import ceil, isqrt
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray

from neuroscope.reporting.plots.layout import (
    GRID,
    INK,
    LABEL_HEIGHT,
    MARGIN,
    WIDTH,
    add_axes,
    add_color_bar,
    add_table,
    label_axes,
    label_points,
    page,
    table_size,
)
from neuroscope.reporting.plots.text import MINUS, Doubles, format_numbers, number_format

Indices = NDArray[np.intp]
Heading = tuple[str, list[str]]  # title and notes

MOST_STEMS = 1024  # number of neurons above which a layer is drawn as a grid
MOST_ASPECT = 2.5  # most columns / rows of a grid of neurons
TIMES = "\u00d7"  # multiplication sign

NEGATIVE, POSITIVE = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion
DIVERGING = LinearSegmentedColormap.from_list(
    "blue_vermilion",
    ["#08306b", NEGATIVE, "#9ccbe6", "#ffffff", "#f7bf94", POSITIVE, "#6b2300"],
).with_extremes(bad="#d9d9d9")


def grid_shape(n: int) -> tuple[int, int]:
    """Return (rows, columns) of a near-square grid of `n` neurons, with rows <= columns.

    Every cell holds a neuron if `n` factorises into two numbers with a ratio of at most 2.5;
    otherwise the end of the last row stays empty.

    Raises:
        ValueError: if `n` is less than 1.
    """
    if n < 1:
        raise ValueError(f"a grid needs at least one neuron, not {n}")
    rows = next(rows for rows in range(isqrt(n), 0, -1) if n % rows == 0)
    if n // rows <= MOST_ASPECT * rows:
        return rows, n // rows
    columns = isqrt(n - 1) + 1
    return ceil(n / columns), columns


def plot_activations(
    values: ArrayLike,
    *,
    model: str,
    site: str,
    prompt: str,
    unit: str = "activation (mean over content tokens)",
    strongest: int = 8,
) -> Figure:
    """Draw the activation of every neuron of one layer for one prompt.

    Values far beyond the others are marked at the edge instead of stretching the axis or the
    colours.

    Args:
        values: (neurons,) activations, in `unit`.
        model: name of the model, for the title.
        site: name of the site, for the title.
        prompt: text of the prompt.
        unit: quantity and unit of the values.
        strongest: number of neurons, largest magnitude first, that are labelled and listed.

    Raises:
        ValueError: if `values` is not one row of finite numbers, or all of them are zero.
    """
    neurons = _neurons(values, "values")
    _check_drawable(neurons, strongest, "every activation is zero: nothing to draw")
    heading = f"{model} · {site}", [f"{unit}, {neurons.size:,} neurons", f"“{prompt}”"]
    if neurons.size <= MOST_STEMS:
        return _draw_stems(neurons, strongest, unit, heading)
    listed = _strongest(neurons, strongest)
    return _draw_grid(neurons, listed, _columns(listed, {"value": neurons}), unit, heading)


def plot_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    model: str,
    site: str,
    prompt_a: str,
    prompt_b: str,
    unit: str,
    strongest: int = 8,
) -> Figure:
    """Draw the difference a - b of every neuron of one layer between two prompts, as a grid.

    Args:
        a: (neurons,) values of the first prompt, in `unit`.
        b: (neurons,) values of the second prompt, in `unit`.
        model: name of the model, for the title.
        site: name of the site, for the title.
        prompt_a: text of the first prompt.
        prompt_b: text of the second prompt.
        unit: quantity and unit of the values.
        strongest: number of neurons, largest difference first, that are labelled and listed.

    Raises:
        ValueError: if `a` or `b` is not one row of finite numbers, they differ in length, or they
            are equal.
    """
    first, second = _neurons(a, "a"), _neurons(b, "b")
    if first.shape != second.shape:
        raise ValueError(f"a has {first.size} neurons, b has {second.size}")
    difference, name = first - second, f"a {MINUS} b"
    _check_drawable(difference, strongest, "every difference a - b is zero: nothing to draw")
    listed = _strongest(difference, strongest)
    columns = _columns(listed, {"a": first, "b": second, name: difference})
    notes = [f"{name}, {unit}, {first.size:,} neurons", f"a: “{prompt_a}”", f"b: “{prompt_b}”"]
    return _draw_grid(difference, listed, columns, f"{name}, {unit}", (f"{model} · {site}", notes))


def _neurons(values: ArrayLike, name: str) -> Doubles:
    """Return the values as an array; raise ValueError unless they are one row of finite numbers."""
    neurons = np.asarray(values, dtype=np.float64)
    if neurons.ndim != 1 or neurons.size == 0:
        raise ValueError(f"{name} must be one row of neurons, not an array of {neurons.shape}")
    nonfinite = np.flatnonzero(~np.isfinite(neurons))
    if nonfinite.size:
        first = f"neuron {nonfinite[0]} ({neurons[nonfinite[0]]})"
        raise ValueError(
            f"{name} has values that are not finite: {nonfinite.size} in all, the first at {first}"
        )
    return neurons


def _check_drawable(values: Doubles, strongest: int, empty: str) -> None:
    """Raise ValueError if no neuron is to be listed, or all values are zero (message `empty`)."""
    if strongest < 1:
        raise ValueError(f"strongest must be at least 1, not {strongest}")
    if not values.any():
        raise ValueError(empty)


def _strongest(values: Doubles, count: int) -> Indices:
    """Return the indices of the `count` largest magnitudes, without zeros, largest first."""
    order = np.argsort(-np.abs(values), kind="stable")
    listed: Indices = order[values[order] != 0][:count]
    return listed


def _columns(listed: Indices, values: dict[str, Doubles]) -> dict[str, list[str]]:
    """Return the table of the listed neurons; the last column decides the number of digits."""
    spec = "+" + number_format(list(values.values())[-1][listed])
    cells = {heading: format_numbers(column[listed], spec) for heading, column in values.items()}
    return {"neuron": [str(index) for index in listed], **cells}


def _draw_stems(values: Doubles, strongest: int, unit: str, heading: Heading) -> Figure:
    """Return a figure with one stem per neuron and a table of the strongest neurons."""
    reach = _reach(values)
    beyond = np.flatnonzero(np.abs(values) > reach)
    listed = _strongest(values, max(strongest, beyond.size))
    columns = _columns(listed, {"value": values})
    table_width, table_height = table_size(columns)
    height = max(3.9, table_height + 0.5)
    title, notes = heading
    if beyond.size:
        notes = [*notes, f"beyond the axis, marked ▲ or ▼: {beyond.size}"]
    figure = page(height, title, notes)
    axes = add_axes(figure, (0.8, 0.55, WIDTH - 1.2 - table_width - MARGIN, height - 0.65))
    add_table(figure, WIDTH - MARGIN, height - 0.08, columns)
    _stems(axes, values, reach)
    label_axes(axes, "neuron", unit)
    _label_stems(axes, values, dict(zip(listed, columns["value"], strict=True)), beyond)
    return figure


def _reach(values: Doubles) -> float:
    """Return the largest magnitude that is at most four times their 99th percentile."""
    magnitudes = np.abs(values)
    typical = np.percentile(magnitudes, 99, method="lower")
    return float(magnitudes[magnitudes <= 4 * typical].max() or magnitudes.max())


def _stems(axes: Axes, values: Doubles, reach: float) -> None:
    """Draw a line per neuron from zero to its value, or to a triangle at the edge beyond reach."""
    count, shown = values.size, values.clip(-reach, reach)
    highest, lowest = max(shown.max(), 0.0), min(shown.min(), 0.0)
    pad = 0.1 * (highest - lowest)
    low, high = lowest - pad if lowest else -pad / 5, highest + pad if highest else pad / 5
    axes.set(xlim=(-0.01 * count - 0.5, 1.01 * count - 0.5), ylim=(low, high))
    axes.set_xticks(range(0, count, _step(count, 16)))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(0, color="#9a9a9a", linewidth=0.8, zorder=1.5)
    index, colors = np.arange(count), np.where(values < 0, NEGATIVE, POSITIVE)
    width = _stem_width(count)
    axes.vlines(index, 0, values.clip(low, high), colors=colors.tolist(), linewidth=width)
    for marker, beyond, edge in (("^", values > reach, high), ("v", values < -reach, low)):
        if beyond.any():
            edges, color = np.full(beyond.sum(), edge), colors[beyond][0]
            axes.plot(index[beyond], edges, marker, color=color, markersize=8, clip_on=False)


def _stem_width(count: int) -> float:
    """Return the width of a stem in points."""
    return min(max(350 / count, 0.8), 6)


def _step(count: int, ticks: int) -> int:
    """Return the smallest power of two that divides `count` into at most `ticks` steps."""
    step = 1
    while count > step * ticks:
        step *= 2
    return step


def _label_stems(axes: Axes, values: Doubles, listed: dict[int, str], beyond: Indices) -> None:
    """Label the listed neurons by their indices, and those beyond the axis by their values too."""
    tips = values.clip(*axes.get_ylim())
    texts = [
        f"{index}: {text}" if index in beyond else str(index) for index, text in listed.items()
    ]
    strong = _strongest(values, 64)
    ends = tips[strong]
    stems = np.column_stack([strong, np.minimum(ends, 0), strong, np.maximum(ends, 0)])
    points = np.column_stack([list(listed), tips[list(listed)]])
    half = _stem_width(values.size) / 72 / 2
    label_points(axes, points, texts, stems, (half + 0.01, 0), half + 0.04)


def _draw_grid(
    values: Doubles, listed: Indices, columns: dict[str, list[str]], unit: str, heading: Heading
) -> Figure:
    """Return a figure with a grid of cells, one per neuron, and a table of the listed neurons."""
    grid_rows, grid_columns = grid_shape(values.size)
    table_width, table_height = table_size(columns)
    cell = min((WIDTH - 2.4 - table_width - MARGIN) / grid_columns, 6.3 / grid_rows, 0.5)  # inches
    size = (grid_columns * cell, grid_rows * cell)
    height = max(size[1], table_height, 2.4) + 0.65
    figure = page(height, *heading)
    bottom = height - 0.08 - size[1]
    axes = add_axes(figure, (0.75, bottom, *size))
    image = _image(axes, values)
    bar_height = max(size[1], 2.3)
    clipping, extend = _clipping(values)
    bar = (0.9 + size[0], height - 0.08 - bar_height, 0.16, bar_height)
    add_color_bar(figure, image, bar, [unit, clipping], extend)
    add_table(figure, WIDTH - MARGIN, height - 0.08, columns)
    _label_cells(axes, cell, listed)
    return figure


def _image(axes: Axes, values: Doubles) -> AxesImage:
    """Draw the neurons as a grid of cells, row by row."""
    rows, columns = grid_shape(values.size)
    blank = rows * columns - values.size
    cells = np.pad(values, (0, blank), constant_values=np.nan).reshape(rows, columns)
    limit = _limit(values)
    style: dict[str, Any] = {"interpolation": "nearest", "aspect": "auto", "cmap": DIVERGING}
    image = axes.imshow(np.ma.masked_invalid(cells), vmin=-limit, vmax=limit, **style)
    grey = "; grey: no neuron" if blank else ""
    label_axes(axes, f"column   (neuron = row {TIMES} {columns} + column{grey})", "row")
    axes.set_xticks(range(0, columns, _step(columns, 10)))
    axes.set_yticks(range(0, rows, _step(rows, 10)))
    return image


def _limit(values: Doubles) -> float:
    """Return where colours end: the 99.5th percentile of magnitudes, or the maximum if it is 0."""
    magnitudes = np.abs(values)
    return float(np.percentile(magnitudes, 99.5) or magnitudes.max())


def _clipping(values: Doubles) -> tuple[str, str]:
    """Return a note on values beyond the colours, and which ends of the colour bar to extend."""
    limit = _limit(values)
    over, under = bool((values > limit).any()), bool((values < -limit).any())
    if not over and not under:
        return "not clipped", "neither"
    extend = "both" if over and under else "max" if over else "min"
    number = format_numbers([limit], number_format(np.array([limit])))[0]
    return f"clipped at ±{number} (99.5th percentile)", extend


def _label_cells(axes: Axes, cell: float, listed: Indices) -> None:
    """Mark the listed neurons with open squares and their indices; `cell` is in inches."""
    _, column_count = axes.images[0].get_size()
    rows, columns = np.divmod(listed, column_count)
    side = max(cell, 0.07)
    style: dict[str, Any] = {"marker": "s", "facecolors": "none", "edgecolors": INK}
    axes.scatter(columns, rows, s=(72 * side) ** 2, linewidths=1, **style)
    points = np.column_stack([columns, rows])
    texts, squares = [str(index) for index in listed], np.hstack([points, points])
    if cell > 0.4:  # the index fits into the cell
        squares, gap = squares[:0], -LABEL_HEIGHT / 2
    else:
        gap = side / 2 + 0.03
    label_points(axes, points, texts, squares, (side / 2, side / 2), gap)
