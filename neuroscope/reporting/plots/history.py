"""Figure of the versions of a model: a statistic with its limits, its margin and the verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.plots.layout import FAINT, MARGIN, WIDTH, add_axes, label_axes, page
from neuroscope.reporting.plots.legend import COLORS, REFERENCE, REFERENCE_DASHES, Entry, Legend
from neuroscope.reporting.plots.scales import (
    draw_level,
    scale_values,
    set_whole_numbers,
    style_grid,
)
from neuroscope.reporting.plots.text import Doubles, text_width

Verdict = Literal["identical", "compatible", "drifted", "inconclusive"]
Style = dict[str, Any]  # matplotlib's properties of a line

LEFT, FOOT = 0.8, 0.6  # inches left of the axes, and between them and the legend
HEIGHT = 2.6  # inches
VERDICTS: dict[str, Style] = {
    "identical": {"color": COLORS[0], "marker": "o", "markersize": 7},
    "compatible": {"color": COLORS[2], "marker": "s", "markersize": 6.5},
    "drifted": {"color": COLORS[1], "marker": "X", "markersize": 8.5},
    "inconclusive": {"color": COLORS[4], "marker": "^", "markersize": 8},
}
BAR: Style = {"linewidth": 1.4, "alpha": 0.8}
MARGIN_STYLE: Style = {**REFERENCE, "linestyle": REFERENCE_DASHES[1]}


@dataclass(frozen=True)
class VersionCheck:
    """Decision on one version of a model.

    >>> check = VersionCheck(3, 0.096, 0.081, 0.112, "drifted")
    """

    version: int
    """Number of the version."""
    value: float
    """Statistic of the version, such as its distance from the base version."""
    low: float
    """Lower limit of the statistic."""
    high: float
    """Upper limit of the statistic."""
    verdict: Verdict
    """Decision: identical, compatible, drifted or inconclusive."""


def plot_history(
    checks: Sequence[VersionCheck],
    *,
    margin: float,
    metric: Metric,
    title: str,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw the statistic of each version with its limits, and the margin.

    Each verdict has a colour and a shape. The axis is logarithmic if no value is negative and the
    positive ones span a factor over 300; zeros are at its bottom.

    Args:
        checks: decisions, by increasing version; numbers may be missing.
        margin: value of the statistic at which a version stops being compatible.
        metric: metric of the statistic; its label is written beside the y axis.
        title: heading of the figure.
        notes: lines below the title.

    Raises:
        ValueError: if there is no check, versions do not increase, a verdict is unknown, a number
            is not finite, or a lower limit is above its upper limit.
    """
    versions = _versions(checks)
    if not np.isfinite(margin):
        raise ValueError(f"the margin must be finite, not {margin}")
    legend = Legend(_entries(checks), LEFT, WIDTH - LEFT - MARGIN)
    foot = FOOT + legend.height
    figure = page(foot + HEIGHT, title, notes)
    axes = add_axes(figure, (LEFT, foot, WIDTH - LEFT - MARGIN, HEIGHT - MARGIN))
    gap = max(text_width(str(check.version), 8.5) for check in checks) + 0.1
    set_whole_numbers(axes, versions, gap, WIDTH - LEFT - MARGIN)
    style_grid(axes)
    label_axes(axes, "version")
    _draw_checks(axes, checks)
    draw_level(axes, margin, MARGIN_STYLE)
    scale_values(axes, metric.axis_label, log=True)
    legend.draw(figure)
    return figure


def _versions(checks: Sequence[VersionCheck]) -> Doubles:
    """Return the numbers of the versions; raise ValueError if a check cannot be drawn."""
    versions = np.array([check.version for check in checks])
    if not versions.size or versions.dtype.kind not in "iu" or (np.diff(versions) <= 0).any():
        raise ValueError(
            f"versions must be one or more increasing integers, not {versions.tolist()}"
        )
    for check in checks:
        numbers = np.isfinite([check.value, check.low, check.high]).all()
        if not numbers or check.low > check.high or check.verdict not in VERDICTS:
            raise ValueError(
                f"{check} needs finite numbers, low <= high, and a verdict among {list(VERDICTS)}"
            )
    return versions.astype(np.float64)


def _entries(checks: Sequence[VersionCheck]) -> list[Entry]:
    """Return the entries of the legend: the verdicts that occur, the limits and the margin."""
    verdicts = {check.verdict for check in checks}
    styles = {name: style for name, style in VERDICTS.items() if name in verdicts}
    lines = {"lower and upper limit": {**BAR, "color": FAINT}, "margin": MARGIN_STYLE}
    points = [(name, Line2D([], [], linestyle="", **style)) for name, style in styles.items()]
    return [*points, *((name, Line2D([], [], **style)) for name, style in lines.items())]


def _draw_checks(axes: Axes, checks: Sequence[VersionCheck]) -> None:
    """Draw a point per version, and a bar from its lower to its upper limit."""
    for verdict, style in VERDICTS.items():
        group = [check for check in checks if check.verdict == verdict]
        if group:
            x, y, low, high = np.transpose([(c.version, c.value, c.low, c.high) for c in group])
            axes.vlines(x, low, high, colors=style["color"], **BAR)
            axes.plot(x, y, linestyle="", **style)
