"""Axes of values, linear or logarithmic, and axes of whole numbers such as layers and versions."""

from math import ceil, floor, log10
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from neuroscope.reporting.plots.layout import GRID, label_axes, thin
from neuroscope.reporting.plots.text import Doubles

MOST_SPREAD = 300  # largest / smallest positive value above which an axis may be logarithmic
MOST_DECADES = 5  # number of decades above which only some are labelled


def style_grid(axes: Axes) -> None:
    """Draw a light grid in place of the right and upper frame and of the ticks."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", bottom=False, left=False)


def set_whole_numbers(axes: Axes, x: Doubles, gap: float, width: float) -> None:
    """Set the limits of the x axis, and ticks at whole numbers that are far enough apart.

    Args:
        axes: axes to change.
        x: whole numbers, increasing.
        gap: least distance between ticks, in inches.
        width: width of the axes in inches.
    """
    span = max(x[-1] - x[0], 1)
    axes.set_xlim(x[0] - 0.04 * span - 0.1, x[-1] + 0.04 * span + 0.1)
    axes.set_xticks(x[thin(x, gap * span / width)])


def draw_level(axes: Axes, y: float, style: dict[str, Any]) -> None:
    """Draw a horizontal line over the width of axes, whose x limits must be set.

    Unlike `axhline`, it keeps the exact value among the limits of the data, on which
    `scale_values` relies to detect zeros.
    """
    axes.plot(axes.get_xlim(), [y, y], **style)


def scale_values(axes: Axes, label: str, *, log: bool) -> None:
    """Label the y axis, and make it logarithmic if `log` and what is drawn allow it.

    No value may be negative, and the positive ones must span a factor over 300. Zeros are then
    drawn at the bottom, below the power of ten under the smallest positive value.
    """
    drawn = [sibling.dataLim for sibling in axes.get_shared_y_axes().get_siblings(axes)]
    low, high = min(limits.y0 for limits in drawn), max(limits.y1 for limits in drawn)
    least = min(limits.minposy for limits in drawn)
    if log and low >= 0 and least < high / MOST_SPREAD:
        if low == 0:
            _scale_with_zero(axes, least, high)
        else:
            axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        label += " (log)"
    label_axes(axes, y=label)


def _scale_with_zero(axes: Axes, least: float, high: float) -> None:
    """Make the y axis logarithmic from the power of ten below `least`, with zero below that."""
    first, last = floor(log10(least)), ceil(log10(high))
    decades = last - first
    gap, pad = max(1, decades / 8), decades / 16  # in decades: below the first, and at both ends
    # matplotlib multiplies the length of the linear part, from 0 to `linthresh`, by 10 / 9
    axes.set_yscale("symlog", linthresh=10.0**first, linscale=0.9 * gap)
    axes.set_ylim(-(10.0**first) * pad / gap, high * 10**pad)
    step = ceil(decades / MOST_DECADES)
    axes.set_yticks([0, *(10.0 ** np.arange(first, log10(high) + pad, step))])
