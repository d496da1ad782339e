"""Figures of patching: shares with error bars, references and the largest jump."""

from typing import Any

import numpy as np
import pytest
from figures import legend_names
from matplotlib.figure import Figure

from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.plots import plot_patching

SHARE = Metric("share", "share that returns", "share of the change in KL", "high")


def draw(shares: list[float | None], band: Any = None, layers: Any = None) -> Figure:
    layers = range(len(shares)) if layers is None else layers
    return plot_patching(layers, shares, band, metric=SHARE, title="v1 → v2")


def test_shares_have_error_bars_and_references() -> None:
    low, high = [0.0, 0.4, 0.8], [0.2, 0.6, 1.0]
    figure = draw([0.1, 0.5, 0.9], (low, high))
    axes = figure.axes[0]
    assert axes.lines[0].get_ydata().tolist() == [0.1, 0.5, 0.9]
    bars = [segment.tolist() for c in axes.collections for segment in c.get_segments()]
    assert bars == [[[k, low[k]], [k, high[k]]] for k in range(3)]
    levels = [set(line.get_ydata()) for line in axes.lines[2:4]]
    assert levels == [{0.0}, {1.0}]
    assert axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 1
    assert legend_names(figure)[2:] == ["nothing returns", "everything returns"]


@pytest.mark.parametrize(
    ("shares", "step", "name"),
    [
        ([0.1, 0.2, 0.7, 0.9], [(1, 0.2), (2, 0.7)], "largest jump: +0.50 at layer 2"),
        ([0.6, 0.9, 1.0], [(0, 0.6)], "largest jump: +0.60 at layer 0"),
        ([0.1, None, 0.8, 0.9], [(0, 0.1), (2, 0.8)], "largest jump: +0.70 at layer 2"),
        ([-0.2, -0.4, 0.0], [(1, -0.4), (2, 0.0)], "largest jump: +0.40 at layer 2"),
        ([0.25, 0.5, 0.75], [(0, 0.25)], "largest jump: +0.25 at layer 0"),
    ],
)
def test_the_largest_jump_is_marked_and_named(
    shares: list[float | None], step: list[tuple[int, float]], name: str
) -> None:
    figure = draw(shares)
    _, jump, *_ = figure.axes[0].lines
    assert jump.get_xydata().tolist() == [list(point) for point in step]
    assert legend_names(figure)[1] == name


def test_the_layers_of_the_jump_are_the_patched_ones() -> None:
    figure = draw([0.1, 0.2, 0.9], layers=[4, 8, 12])
    assert figure.axes[0].lines[1].get_xdata().tolist() == [8, 12]
    assert legend_names(figure)[1] == "largest jump: +0.70 at layer 12"
    assert figure.axes[0].get_xticks().tolist() == [4, 8, 12]


@pytest.mark.parametrize("shares", [[-0.1, -0.2], [0.0, 0.0], [None, None]])
def test_no_jump_is_marked_if_no_share_rises(shares: list[float | None]) -> None:
    figure = draw(shares)
    assert legend_names(figure) == ["share that returns", "nothing returns", "everything returns"]
    assert len(figure.axes[0].lines) == 3


def test_shares_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, 0\]"):
        draw([0.1, 0.2], layers=[1, 0])
    with pytest.raises(ValueError, match="inf"):
        draw([0.1, np.inf])
    with pytest.raises(ValueError, match="lower edge"):
        draw([0.1], ([0.2], [0.1]))
    with pytest.raises(ValueError, match=r"\[0.1\]"):
        draw([0.1], layers=[0, 1])
