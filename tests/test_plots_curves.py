"""Figures of curves over layers: axes, styles, bands, reference lines and summaries."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from figures import COSINE, ENTROPY, MINUS, RMS, legend_names
from matplotlib.artist import getp
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure

from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.plots import Band, Curve, Panel, plot_curves

ALL, SPAN = "all", "span"


def falling(count: int, layers: int) -> dict[str, Curve]:
    """Return curves that rise with the layer, each lower than the previous one."""
    rows = [[1 - k / 100 + n / 1000 for n in range(layers)] for k in range(count)]
    return {f"pair {k}": Curve(range(layers), row) for k, row in enumerate(rows)}


def draw(*panels: Panel, **options: Any) -> Figure:
    """Draw one row of panels."""
    return plot_curves([panels], title="bert", **options)


def grid(curves: dict[str, Curve], metrics: Sequence[Metric] = (COSINE, RMS)) -> Figure:
    """Draw the same curves in a row per metric and a column per view."""
    rows = [[Panel(metric, curves, view) for view in (ALL, SPAN)] for metric in metrics]
    return plot_curves(rows, title="bert")


def values(figure: Figure, line: int = 0) -> np.ndarray:
    """Return the values of a line in the first panel."""
    return figure.axes[0].lines[line].get_ydata()


def test_up_to_eight_curves_have_distinct_styles_in_every_panel() -> None:
    figure = grid(falling(8, 12))
    assert [len(axes.lines) for axes in figure.axes] == [8] * 4
    for property in ("color", "marker"):
        looks = [[getp(line, property) for line in axes.lines] for axes in figure.axes]
        assert len(set(looks[0])) == 8
        assert looks.count(looks[0]) == 4
    assert values(figure, 5).tolist() == falling(8, 12)["pair 5"].values
    assert legend_names(figure) == [f"pair {k}" for k in range(8)]


def test_a_curve_looks_the_same_if_others_are_missing() -> None:
    curves = falling(3, 2)
    first, second = draw(
        Panel(COSINE, curves, ALL), Panel(COSINE, {"pair 2": curves["pair 2"]}, SPAN)
    ).axes
    assert second.lines[0].get_color() == first.lines[2].get_color()


def test_rows_and_columns_are_labelled_once() -> None:
    cosine, right, rms, _ = grid(falling(2, 12)).axes
    assert (cosine.get_title(), right.get_title()) == (ALL, SPAN)
    assert (cosine.get_ylabel(), right.get_ylabel()) == ("cosine similarity", "")
    assert (cosine.get_xlabel(), rms.get_xlabel()) == ("", "layer")
    assert rms.get_ylabel() == "standardised difference"


def test_neighbours_with_one_metric_share_their_y_axis() -> None:
    cosine, right, rms, _ = grid(falling(2, 12)).axes
    assert right.get_shared_y_axes().joined(cosine, right)
    assert not rms.get_shared_y_axes().joined(cosine, rms)
    left, other = draw(Panel(COSINE, falling(2, 3)), Panel(ENTROPY, falling(2, 3))).axes
    assert not other.get_shared_y_axes().joined(left, other)
    assert other.get_ylabel() == "prompt entropy"
    assert other.get_position().x0 - left.get_position().x1 > 0.07  # room for the label


def test_a_panel_without_one_below_labels_its_layers() -> None:
    curves = falling(1, 3)
    rows = [[Panel(COSINE, curves, ALL), Panel(COSINE, curves, SPAN)], [Panel(RMS, curves)]]
    labels = [axes.get_xlabel() for axes in plot_curves(rows, title="bert").axes]
    assert labels == ["", "layer", "layer"]


def test_an_axis_from_zero_shows_how_small_the_differences_are() -> None:
    curves = {"": Curve(range(3), [0.50, 0.51, 0.52])}
    free, from_zero = draw(Panel(COSINE, curves)), draw(Panel(COSINE, curves, from_zero=True))
    assert free.axes[0].get_ylim()[0] > 0.49
    low, high = from_zero.axes[0].get_ylim()
    assert -0.05 < low <= 0 < 0.52 < high < 0.6
    assert values(from_zero).tolist() == [0.50, 0.51, 0.52]


def test_missing_values_are_not_drawn() -> None:
    curves = falling(1, 3) | {"gaps": Curve(range(3), [0.5, None, np.nan])}
    figure = draw(Panel(COSINE, curves), Panel(COSINE, {"none": Curve([0], [None])}))
    assert np.isnan(values(figure, 1)).tolist() == [False, True, True]
    assert [text.get_text() for text in figure.axes[1].texts] == ["n/a"]


def test_one_layer_is_a_marker() -> None:
    axes = draw(Panel(COSINE, falling(1, 1))).axes[0]
    assert axes.lines[0].get_marker() == "o"
    assert axes.get_xticks().tolist() == [0]


def test_layer_ticks_are_thinned() -> None:
    for layers, step in ((12, 1), (32, 4)):
        panels = [Panel(COSINE, falling(1, layers), view) for view in "abc"]
        ticks = draw(*panels).axes[0].get_xticks().tolist()
        assert ticks == list(range(0, layers, step))


def test_relative_depth_ends_at_100_per_cent() -> None:
    curves = {
        "small": Curve(range(6), range(6), model_layers=6),
        "large": Curve([3, 15, 31], [0, 1, 2], model_layers=32),
    }
    axes = draw(Panel(COSINE, curves), x_axis="depth").axes[0]
    small, large = (line.get_xdata() for line in axes.lines)
    assert small.tolist() == pytest.approx([100 * k / 6 for k in range(1, 7)])
    assert large.tolist() == [12.5, 50, 100]
    assert axes.get_xlabel() == "relative depth (%)"
    assert axes.get_xticks().tolist() == [0, 25, 50, 75, 100]


def test_a_band_is_shaded_in_the_colour_of_its_curve() -> None:
    band = ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    axes = draw(Panel(COSINE, {"a": Curve([0, 1, 2], [0.3, 0.4, 0.5], band)})).axes[0]
    (shade,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    corners = {(x, round(y, 9)) for x, y in shade.get_paths()[0].vertices.tolist()}
    assert corners == {(x, y) for edge in band for x, y in enumerate(edge)}
    assert shade.get_facecolor()[0][:3].tolist() == pytest.approx([0, 0x72 / 255, 0xB2 / 255])


def test_a_band_without_neighbours_is_a_bar() -> None:
    band = ([0.1, None, 0.3, 0.3], [0.5, None, 0.7, 0.7])
    axes = draw(Panel(COSINE, {"a": Curve(range(4), [0.3, 0.4, 0.5, 0.5], band)})).axes[0]
    (bars,) = (c for c in axes.collections if isinstance(c, LineCollection))
    assert [segment.tolist() for segment in bars.get_segments()] == [[[0, 0.1], [0, 0.5]]]


def test_a_band_may_be_an_error_bar_per_layer() -> None:
    band = ([0.1, None, 0.3], [0.5, None, 0.7])
    curve = Curve(range(3), [0.3, 0.4, 0.5], band, bars=True)
    (bars,) = draw(Panel(COSINE, {"a": curve})).axes[0].collections
    segments = [segment.tolist() for segment in bars.get_segments() if len(segment)]
    assert segments == [[[0, 0.1], [0, 0.5]], [[2, 0.3], [2, 0.7]]]


def test_the_band_of_a_panel_is_behind_its_curves_and_in_the_legend() -> None:
    band = Band("replicates", range(4), [0, 0.1, None, 0.2], [0.1, 0.3, None, 0.2])
    figure = draw(Panel(COSINE, falling(1, 3), band=band))
    shade, *_ = figure.axes[0].collections
    corners = {tuple(point) for point in shade.get_paths()[0].vertices.tolist()}
    assert corners == {(0, 0), (0, 0.1), (1, 0.1), (1, 0.3)}
    assert shade.get_zorder() < figure.axes[0].lines[0].get_zorder()
    assert legend_names(figure) == ["pair 0", "replicates"]
    assert figure.axes[0].get_xticks().tolist() == [0, 1, 2, 3]
    sample = figure.legends[0].legend_handles[1]
    assert sample.get_facecolor() == tuple(shade.get_facecolor()[0])


def test_the_band_of_a_panel_is_drawn_over_relative_depth() -> None:
    band = Band("replicates", range(2), [0, 0], [1, 1], model_layers=4)
    curve = Curve([3], [0.5], model_layers=4)
    axes = draw(Panel(COSINE, {"a": curve}, band=band), x_axis="depth").axes[0]
    assert set(axes.collections[0].get_paths()[0].vertices[:, 0]) == {25, 50}


def test_bands_of_panels_that_cannot_be_drawn_are_refused() -> None:
    curves, band = falling(1, 1), Band("replicates", [0], [0.1], [0.2])
    with pytest.raises(ValueError, match=r"'replicates' of cosine, all .*lower edge"):
        draw(Panel(COSINE, curves, ALL, band=replace(band, high=[0.0])))
    with pytest.raises(ValueError, match=r"'replicates' .* 1 .*\[0.1, 0.2\]"):
        draw(Panel(COSINE, curves, band=replace(band, low=[0.1, 0.2])))
    with pytest.raises(ValueError, match="'replicates', 'rewording'"):
        draw(*(Panel(RMS, curves, band=b) for b in (band, replace(band, name="rewording"))))


def test_reference_lines_are_level_and_in_the_legend() -> None:
    panels = [
        Panel(COSINE, falling(1, 3), ALL, {"chance": 0.2, "bag of tokens": 0.4}),
        Panel(COSINE, falling(1, 3), SPAN, {"bag of tokens": 0.3}),
    ]
    figure = draw(*panels)
    _, chance, tokens = figure.axes[0].lines
    assert [chance.get_ydata()[0], tokens.get_ydata()[0]] == [0.2, 0.4]
    assert figure.axes[1].lines[1].get_ydata()[0] == 0.3
    assert figure.axes[1].lines[1]._dash_pattern == tokens._dash_pattern
    assert figure.axes[0].get_ylim()[0] < 0.2
    assert legend_names(figure) == ["pair 0", "chance", "bag of tokens"]


def test_more_than_eight_curves_are_grey_except_the_median_and_the_extremes() -> None:
    figure = grid(falling(60, 32))
    every, median, best, worst = figure.axes[0].lines
    rows = np.array([curve.values for curve in falling(60, 32).values()])
    assert np.array_equal(every.get_ydata().reshape(60, 33)[:, :-1], rows)
    assert np.isnan(every.get_ydata()[32::33]).all()
    assert np.array_equal(median.get_ydata(), np.median(rows, axis=0))
    assert median.get_linewidth() > 3 * every.get_linewidth()
    assert np.array_equal(best.get_ydata(), rows[0])
    assert np.array_equal(worst.get_ydata(), rows[59])


@pytest.mark.parametrize(
    ("metric", "best", "worst"), [(COSINE, 0, 59), (RMS, 59, 0), (ENTROPY, 0, 59)]
)
def test_the_extremes_are_named_by_the_direction_of_the_metric(
    metric: Metric, best: int, worst: int
) -> None:
    panel = Panel(metric, falling(60, 3), ALL)
    figure = draw(panel, noun="pair", ends=("most alike", "least alike"))
    assert legend_names(figure) == [
        "every pair",
        "median",
        f"most alike ({metric.name}, all): pair {best}",
        f"least alike ({metric.name}, all): pair {worst}",
    ]


def test_the_median_covers_the_depths_that_all_models_have() -> None:
    curves = {f"{n}": Curve(range(n), [k / n for k in range(n)], None, n) for n in range(4, 14)}
    median = draw(Panel(COSINE, curves), x_axis="depth").axes[0].lines[1]
    x = 100 * np.arange(1, 14) / 13
    inside = [[np.interp(p, 100 * np.arange(1, n + 1) / n, np.arange(n) / n) for n in range(4, 14)]
              for p in x[x >= 25]]  # fmt: skip
    assert median.get_xdata().tolist() == pytest.approx(x[x >= 25].tolist())
    assert median.get_ydata().tolist() == pytest.approx(np.median(inside, axis=1).tolist())


def test_the_median_ignores_gaps() -> None:
    curves = falling(9, 2)
    curves["pair 0"] = Curve(range(2), [None, 1.0])
    median = values(draw(Panel(COSINE, curves)), 1)
    assert median[0] == pytest.approx(np.median([1 - k / 100 for k in range(1, 9)]))


def test_an_axis_is_logarithmic_if_allowed_and_values_span_decades() -> None:
    wide, narrow = Curve([0, 1], [0.001, 10.0]), Curve([0, 1], [1.0, 10.0])
    zero = Curve([0, 1], [0.0, 10.0])
    cases = [(wide, True, "log"), (wide, False, "linear"), (narrow, True, "linear")]
    for curve, log, scale in [*cases, (zero, True, "linear")]:
        axes = draw(Panel(RMS, {"a": curve}, log=log)).axes[0]
        assert axes.get_yscale() == scale
        assert axes.get_ylabel().endswith(" (log)") == (scale == "log")


@pytest.mark.parametrize(
    ("least", "most", "labels"),
    [
        (2e-3, 0.9, ["0", "0.001", "0.01", "0.1", "1"]),
        (1e-12, 1, ["0", f"1e{MINUS}12", f"1e{MINUS}09", f"1e{MINUS}06", "0.001", "1"]),
    ],
)
def test_zeros_are_at_the_bottom_of_a_logarithmic_axis(
    least: float, most: float, labels: list[str]
) -> None:
    curves = {"a": Curve(range(3), [0, least, most]), "b": Curve(range(3), [0, 0, 0])}
    figure = draw(Panel(RMS, curves, log=True, references={"none": 0.0}))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == labels
    heights = [axes.transAxes.inverted().transform(axes.transData.transform((0, y)))[1]
               for y in (0, *axes.get_yticks()[1:], most)]  # fmt: skip
    assert 0.02 < heights[0] < 0.1 and 0.9 < heights[-1] < 0.98
    decades = np.diff(heights[1:-1]) / np.diff(np.log10(axes.get_yticks()[1:]))
    assert decades == pytest.approx(decades[0])
    boxes = [tick.get_window_extent() for tick in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    assert values(figure).tolist() == [0, least, most]
    assert axes.get_ylabel() == "standardised difference (log)"


def test_values_with_zeros_that_span_few_decades_have_a_linear_axis() -> None:
    curve = Curve(range(4), [0, 0.22, 0.12, 0.1])
    axes = draw(Panel(RMS, {"a": curve}, references={"margin": 0.05}, log=True)).axes[0]
    assert (axes.get_yscale(), axes.get_ylabel()) == ("linear", "standardised difference")


def test_a_negative_value_makes_the_axis_linear() -> None:
    curve = Curve(range(3), [-1e-9, 1e-6, 1.0])
    assert draw(Panel(RMS, {"a": curve}, log=True)).axes[0].get_yscale() == "linear"


def test_a_reference_above_equal_values_sets_the_limits() -> None:
    curve = Curve(range(2), [0, 0])
    low, high = draw(Panel(RMS, {"a": curve}, references={"margin": 0.05})).axes[0].get_ylim()
    assert (low, high) == pytest.approx((-0.0025, 0.0525))


def test_neighbours_share_a_logarithmic_axis() -> None:
    narrow, wide = Curve([0, 1], [1.0, 2.0]), Curve([0, 1], [0.001, 10.0])
    panels = [Panel(RMS, {"a": curve}, log=True) for curve in (narrow, wide)]
    assert [axes.get_yscale() for axes in draw(*panels).axes] == ["log", "log"]
    zeros = Panel(RMS, {"a": Curve([0, 1], [0, 0.5])}, log=True)
    first, second = draw(zeros, panels[1]).axes
    assert first.get_yscale() == second.get_yscale() == "symlog"
    assert first.get_ylim() == second.get_ylim()


@pytest.mark.parametrize(
    ("curve", "fault"),
    [
        (Curve([0, 1], [1.0]), r"'a' of cosine, all.* 2 .*\[1.0\]"),
        (Curve([0], [np.inf]), r"\[inf\]"),
        (Curve([1, 0], [1.0, 1.0]), r"\[1, 0\]"),
        (Curve([0.5], [1.0]), r"\[0.5\]"),
        (Curve(range(0), []), r"range\(0, 0\)"),
        (Curve([0], [1.0], band=([1.0, 2.0], [2.0])), r"band of 'a'.*\[1.0, 2.0\]"),
        (Curve([0], [1.0], band=([2.0], [1.0])), "band of 'a'"),
    ],
)
def test_curves_that_cannot_be_drawn_are_refused(curve: Curve, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        draw(Panel(COSINE, {"a": curve}, ALL))


@pytest.mark.parametrize("model_layers", [None, 6])
def test_relative_depth_needs_the_number_of_layers(model_layers: int | None) -> None:
    curve = Curve([0, 6], [1.0, 1.0], model_layers=model_layers)
    with pytest.raises(ValueError, match=r"'a' of cosine .*model_layers.* 6"):
        draw(Panel(COSINE, {"a": curve}), x_axis="depth")


def test_figures_without_curves_are_refused() -> None:
    for rows in ([], [[]], [[Panel(COSINE, {})]]):
        with pytest.raises(ValueError, match="no curve"):
            plot_curves(rows, title="bert")


def test_reference_lines_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'chance'.*nan"):
        draw(Panel(COSINE, falling(1, 2), references={"chance": np.nan}))
    with pytest.raises(ValueError, match="'line 4'"):
        draw(Panel(COSINE, falling(1, 2), references={f"line {k}": k for k in range(5)}))


def test_a_single_curve_without_a_name_has_no_legend() -> None:
    figure = plot_curves([[Panel(COSINE, {"": Curve(range(3), [0.1, 0.2, 0.3])})]], title="bert")
    assert figure.legends == []
