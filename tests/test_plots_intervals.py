"""Figures of values with their intervals: marks, bars, names and faults."""

import math

import numpy as np
import pytest
from figures import COSINE, HOSTILE, legend_names

from neuroscope.reporting.plots import plot_intervals, save_png

RAW = [(0.2, 0.1, 0.3), (-0.1, -0.2, 0.0)]
CONTROLLED = [(0.1, 0.05, 0.15), (math.nan, math.nan, math.nan)]


def draw(names=("nurse", "baker"), **series):
    return plot_intervals(
        names, series or {"raw": RAW, "controlled": CONTROLLED}, metric=COSINE, title="minilm"
    )


def test_each_value_is_a_mark_with_a_bar_between_its_ends():
    axes = draw().axes[0]
    marks = {line.get_label(): line.get_xdata().tolist() for line in axes.lines}
    assert sorted(map(str, marks.values())) == ["[0.1, nan]", "[0.2, -0.1]"]
    bars = [np.sort(bar[:, 0]).tolist() for c in axes.collections for bar in c.get_segments()]
    assert sorted(bars) == [[-0.2, 0.0], [0.05, 0.15], [0.1, 0.3]]


def test_the_first_row_is_at_the_top_and_series_do_not_overlap():
    axes = draw().axes[0]
    low, high = axes.get_ylim()
    assert low > high
    assert [label.get_text() for label in axes.get_yticklabels()] == ["nurse", "baker"]
    heights = [line.get_ydata()[0] for line in axes.lines]
    assert heights[0] < 0 < heights[1]


def test_the_legend_names_series_and_reference():
    figure = plot_intervals(
        ["a"], {"raw": RAW[:1]}, metric=COSINE, title="", reference=("no difference", 0.0)
    )
    assert legend_names(figure) == ["raw", "no difference"]


def test_any_string_can_be_a_name(tmp_path):
    names = [name for name in HOSTILE if name]
    figure = draw(names, **{HOSTILE[0]: [(0.1, 0.0, 0.2)] * len(names)})
    save_png(figure, tmp_path / "figure.png", dpi=40)


@pytest.mark.parametrize(
    ("names", "series"),
    [
        ([], {"raw": []}),
        (["a"], {}),
        (["a"], {"raw": RAW}),
        (["a"], {"raw": [(math.inf, 0, 1)]}),
        (["a"], {str(number): RAW[:1] for number in range(9)}),
    ],
)
def test_what_cannot_be_drawn_is_refused(names, series):
    with pytest.raises(ValueError):
        plot_intervals(names, series, metric=COSINE, title="")
