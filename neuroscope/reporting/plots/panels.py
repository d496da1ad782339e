"""Contents of figures of curves: panels of named curves over layers, checked and summarised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.plots.text import Doubles

XAxis = Literal["layer", "depth"]
Values = Sequence[float | None] | NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Curve:
    """Values over layers, optionally with a band such as a confidence interval.

    >>> curve = Curve(range(3), [0.41, None, 0.52], band=([0.38, None, 0.49], [0.44, None, 0.56]))
    """

    layers: Sequence[int]
    """Layer numbers, increasing, counted from 0."""
    values: Values
    """Values, one per layer; None and NaN are not drawn."""
    band: tuple[Values, Values] | None = None
    """Lower and upper edge of the band, each with one value per layer."""
    model_layers: int | None = None
    """Number of layers of the model, needed to draw the curve over relative depth."""
    bars: bool = False
    """Whether the band is drawn as an error bar per layer instead of being shaded."""


@dataclass(frozen=True)
class Band:
    """Shaded range of values over layers, such as the range of benign replicates.

    >>> band = Band("benign replicates", range(3), [0, 1e-7, 2e-7], [0, 3e-7, 5e-7])
    """

    name: str
    """Name in the legend."""
    layers: Sequence[int]
    """Layer numbers, increasing, counted from 0."""
    low: Values
    """Lower edge, one value per layer; nothing is drawn where an edge is None or NaN."""
    high: Values
    """Upper edge, one value per layer."""
    model_layers: int | None = None
    """Number of layers of the model, needed to draw the band over relative depth."""


@dataclass(frozen=True)
class Panel:
    """One metric over layers.

    >>> accuracy = Metric("accuracy", "accuracy", "share of prompts given their topic", "high")
    >>> curves = {"probe": Curve(range(3), [0.4, 0.5, 0.7])}
    >>> panel = Panel(accuracy, curves, references={"chance": 0.2})
    """

    metric: Metric
    """Metric of the values."""
    curves: Mapping[str, Curve]
    """Curves by their names in the legend; the name of a single curve may be empty."""
    title: str = ""
    """Heading of the panel."""
    references: Mapping[str, float] = field(default_factory=dict)
    """Values of horizontal lines, by their names in the legend."""
    from_zero: bool = False
    """Whether the y axis includes zero."""
    log: bool = False
    """Whether to use a logarithmic axis if no value is negative and the positive ones span a factor
    over 300; zeros are at its bottom."""
    band: Band | None = None
    """Range behind the curves."""

    @property
    def name(self) -> str:
        """Name of the metric, followed by the title if there is one."""
        return ", ".join(part for part in (self.metric.name, self.title) if part)


@dataclass(frozen=True)
class Line:
    """Curve as it is drawn: positions on the x axis, values, and edges of the band."""

    x: Doubles
    y: Doubles
    band: tuple[Doubles, Doubles] | None = None
    bars: bool = False


Lines = dict[str, Line]  # lines by their names in the legend


def panel_lines(panel: Panel, x_axis: XAxis) -> Lines:
    """Return the curves of a panel as arrays.

    Raises:
        ValueError: if layers do not increase, values or edges of a band are infinite or their
            number is not that of the layers, a lower edge is above its upper edge, a reference
            line is not finite, or the x axis is "depth" and a curve lacks `model_layers`.
    """
    for name, value in panel.references.items():
        if not np.isfinite(value):
            raise ValueError(f"reference {name!r} of {panel.name} must be finite, not {value}")
    return {
        name: _line(curve, f"{name!r} of {panel.name}", x_axis)
        for name, curve in panel.curves.items()
    }


def panel_band(panel: Panel, x_axis: XAxis) -> Line | None:
    """Return the band of a panel as a line without values, or None if there is none.

    Raises:
        ValueError: for the same faults of the band as `panel_lines` for those of curves.
    """
    band = panel.band
    if band is None:
        return None
    edges = Curve(band.layers, [None] * len(band.layers), (band.low, band.high), band.model_layers)
    return _line(edges, f"{band.name!r} of {panel.name}", x_axis)


def _line(curve: Curve, label: str, x_axis: XAxis) -> Line:
    """Return a curve as a line; `label` identifies it in error messages."""
    x = _positions(curve, label, x_axis)
    y = _numbers(curve.values, x.size, f"values of {label}")
    if curve.band is None:
        return Line(x, y)
    low, high = (_numbers(edge, x.size, f"band of {label}") for edge in curve.band)
    if (low > high).any():
        raise ValueError(f"band of {label} has a lower edge above its upper edge")
    return Line(x, y, (low, high), curve.bars)


def _positions(curve: Curve, label: str, x_axis: XAxis) -> Doubles:
    """Return the positions of a curve's values on the x axis."""
    layers = np.asarray(curve.layers)
    is_one_row = layers.ndim == 1 and layers.size and layers.dtype.kind in "iu"
    if not is_one_row or (np.diff(layers) <= 0).any():
        raise ValueError(
            f"layers of {label} must be one or more increasing integers, not {curve.layers}"
        )
    if x_axis == "layer":
        return layers.astype(np.float64)
    if curve.model_layers is None or layers[-1] >= curve.model_layers:
        raise ValueError(f"{label} needs model_layers above its last layer, {layers[-1]}")
    return 100 * (layers + 1) / curve.model_layers


def _numbers(values: Values, layers: int, label: str) -> Doubles:
    """Return the values as an array, with NaN for None."""
    numbers = np.array([np.nan if value is None else value for value in values], np.float64)
    if numbers.shape != (layers,) or np.isinf(numbers).any():
        raise ValueError(
            f"{label} must be {layers} finite values, one per layer, not {numbers.tolist()}"
        )
    return numbers


def summary(lines: Lines, every: str, ends: Mapping[str, str]) -> Lines:
    """Return all lines joined into one, their median, and the extreme lines.

    Args:
        lines: lines of one panel.
        every: name of the joined line, in which a NaN follows each line.
        ends: names of the extreme lines, by their names in the legend.
    """
    if not lines:
        return {}
    return {
        every: Line(
            np.concatenate([np.append(line.x, np.nan) for line in lines.values()]),
            np.concatenate([np.append(line.y, np.nan) for line in lines.values()]),
        ),
        "median": _median(list(lines.values())),
        **{name: lines[end] for name, end in ends.items() if end in lines},
    }


def _median(lines: list[Line]) -> Line:
    """Return the median at the positions of the longest line that lie within every line.

    Other lines are interpolated linearly between their positions.
    """
    longest = max(lines, key=lambda line: line.x.size).x
    first, last = max(line.x[0] for line in lines), min(line.x[-1] for line in lines)
    x = longest[(longest >= first) & (longest <= last)]
    columns = np.transpose([np.interp(x, line.x, line.y) for line in lines])
    known = [column[~np.isnan(column)] for column in columns]
    return Line(x, np.array([np.median(column) if column.size else np.nan for column in known]))


def extremes(panel: Panel, lines: Lines, words: tuple[str, str]) -> dict[str, str]:
    """Return the names of the lines with the best and the worst mean, by names for the legend.

    The metric of the panel says whether high or low is better; the default is high.
    """
    known = {name: line.y[~np.isnan(line.y)] for name, line in lines.items()}
    means = {name: y.mean() for name, y in known.items() if y.size}
    ranked = sorted(means, key=means.__getitem__, reverse=panel.metric.better != "low")
    ends = zip(words, (ranked[:1], ranked[1:][-1:]), strict=True)
    return {f"{word} ({panel.name}): {name}": name for word, names in ends for name in names}
