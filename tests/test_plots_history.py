"""Figures of the versions of a model: points, limits, margin, verdicts and versions."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from figures import RMS, legend_names
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from neuroscope.reporting.plots import VersionCheck, plot_history

CHECKS = [
    VersionCheck(2, 0.0, 0.0, 0.0, "identical"),
    VersionCheck(3, 0.02, 0.01, 0.03, "compatible"),
    VersionCheck(5, 0.09, 0.08, 0.11, "drifted"),
    VersionCheck(9, 0.045, 0.03, 0.07, "inconclusive"),
    VersionCheck(10, 0.08, 0.07, 0.1, "drifted"),
]


def draw(checks: list[VersionCheck], margin: float = 0.05) -> Figure:
    return plot_history(checks, margin=margin, metric=RMS, title="news")


def test_each_version_is_a_point_with_a_bar_between_its_limits() -> None:
    axes = draw(CHECKS).axes[0]
    points = [point for line in axes.lines[:-1] for point in line.get_xydata().tolist()]
    assert sorted(points) == [[check.version, check.value] for check in CHECKS]
    bars = [bar.tolist() for c in axes.collections for bar in c.get_segments()]
    assert sorted(bars) == [
        [[check.version, check.low], [check.version, check.high]] for check in CHECKS
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("version", "standardised difference")


def test_each_verdict_has_a_colour_and_a_shape() -> None:
    axes = draw(CHECKS).axes[0]
    looks = [(line.get_color(), line.get_marker()) for line in axes.lines[:-1]]
    assert len({color for color, _ in looks}) == len({marker for _, marker in looks}) == 4
    bars = [to_hex(c.get_color()[0]).upper() for c in axes.collections]
    assert bars == [color for color, _ in looks]
    drifted = next(line for line in axes.lines if 0.09 in line.get_ydata())
    assert drifted.get_xydata().tolist() == [[5, 0.09], [10, 0.08]]


def test_a_verdict_looks_the_same_if_others_are_missing() -> None:
    all_verdicts, one = draw(CHECKS), draw(CHECKS[2:3])
    line = one.axes[0].lines[0]
    same = next(other for other in all_verdicts.axes[0].lines if 0.09 in other.get_ydata())
    assert (line.get_color(), line.get_marker()) == (same.get_color(), same.get_marker())


def test_the_legend_names_the_verdicts_that_occur() -> None:
    rest = ["lower and upper limit", "margin"]
    verdicts = ["identical", "compatible", "drifted", "inconclusive"]
    assert legend_names(draw(CHECKS)) == verdicts + rest
    assert legend_names(draw(CHECKS[2:3])) == ["drifted", *rest]


def test_the_margin_is_a_level_line_within_the_axes() -> None:
    axes = draw(CHECKS[:1], margin=0.3).axes[0]
    assert set(axes.lines[-1].get_ydata()) == {0.3}
    assert tuple(axes.lines[-1].get_xdata()) == axes.get_xlim()
    assert axes.get_ylim()[0] < 0 < 0.3 < axes.get_ylim()[1]


def test_versions_keep_their_distances_and_are_thinned_if_they_are_many() -> None:
    assert draw(CHECKS).axes[0].get_xticks().tolist() == [2, 3, 5, 9, 10]
    checks = [replace(CHECKS[1], version=1000 + k) for k in range(150)]
    figure = draw(checks)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert 10 < len(boxes) < 150
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_zero_is_at_the_bottom_if_values_span_decades() -> None:
    axes = draw([*CHECKS[:1], VersionCheck(3, 1e-7, 5e-8, 2e-7, "compatible")]).axes[0]
    assert axes.get_ylabel() == "standardised difference (log)"
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert ticks[0] == "0" and float(ticks[1].replace("\N{MINUS SIGN}", "-")) == 1e-8
    assert draw(CHECKS).axes[0].get_yscale() == "linear"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"value": np.nan}, "value=nan"),
        ({"high": np.inf}, "high=inf"),
        ({"low": 0.4}, "low=0.4"),
        ({"verdict": "good"}, "verdict='good'"),
        ({"version": 1.5}, r"\[1.5\]"),
    ],
)
def test_checks_that_cannot_be_drawn_are_refused(change: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        draw([replace(CHECKS[1], **change)])


def test_versions_that_do_not_increase_are_refused() -> None:
    for checks in ([], [CHECKS[1], CHECKS[0]], [CHECKS[1], CHECKS[1]]):
        with pytest.raises(ValueError, match="versions"):
            draw(checks)


def test_a_margin_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="nan"):
        draw(CHECKS, margin=np.nan)
