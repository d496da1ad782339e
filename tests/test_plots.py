"""Figures: what is drawn, labelled, clipped, said and refused."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.artist import getp
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuroscope.reporting import plot_layout
from neuroscope.reporting.plots import (
    grid_shape,
    plot_activations,
    plot_by_layer,
    plot_difference,
    plot_pairs_by_layer,
    save_png,
)

Floats = NDArray[np.float64]
SHOWN = {"model": "bert", "site": "layer 3"}
COMPARED = {**SHOWN, "prompt_a": "Paris is", "prompt_b": "Rome is", "unit": "activation"}
LIKENESS = {"model": "bert", "component": "mlp"}
MINUS = "\N{MINUS SIGN}"
HOSTILE = [
    "_under $x^2$ and $\\frac{",
    "\\$ 5$ % {0}",
    "",
    "line\nbreak\r\n\ttab",
    "\x00\x1b\u202e\ud800",
    "中文 🙂👩‍💻",
    "مرحبا e\u0301",
    "W" * 10_000,
    "i " * 5_000,
]


def heavy_tailed(neurons: int) -> Floats:
    """(neurons,) activations, with neuron 3 the strongest of all: -40."""
    values = 0.3 * np.random.default_rng(neurons).standard_t(4, neurons)
    values[3] = -40
    return values


def written(figure: Figure) -> str:
    """All text of a figure outside its axes: title, notes and table."""
    return "\n".join(text.get_text() for text in figure.texts)


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def stem_ends(figure: Figure) -> Floats:
    """(neurons, 2) neuron and height of each stem."""
    (stems,) = (c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    return np.array([segment[1] for segment in stems.get_segments()])


def image_of(figure: Figure) -> np.ma.MaskedArray:
    return np.ma.asarray(figure.axes[0].images[0].get_array())


@pytest.mark.parametrize(
    ("neurons", "shape"),
    [
        *((1, (1, 1)), (384, (16, 24)), (768, (24, 32)), (1024, (32, 32)), (1536, (32, 48))),
        *((3072, (48, 64)), (4096, (64, 64)), (11008, (86, 128)), (14336, (112, 128))),
        *((3, (2, 2)), (7, (3, 3)), (1031, (32, 33)), (2 * 1031, (45, 46))),
    ],
)
def test_known_grids(neurons: int, shape: tuple[int, int]) -> None:
    assert grid_shape(neurons) == shape


@given(st.integers(1, 200_000))
def test_a_grid_holds_all_neurons_and_only_its_last_row_is_not_full(neurons: int) -> None:
    rows, columns = grid_shape(neurons)
    assert rows <= columns <= 2.5 * rows
    assert 0 <= rows * columns - neurons < columns


def test_a_grid_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one neuron, not 0"):
        grid_shape(0)


@pytest.mark.parametrize("neurons", [1, 2, 768, 1024])
def test_up_to_1024_neurons_each_has_a_stem(neurons: int) -> None:
    values = np.linspace(-1, 2, neurons)
    ends = stem_ends(plot_activations(values, prompt="Paris is", **SHOWN))
    assert np.array_equal(ends[:, 0], np.arange(neurons))
    assert np.allclose(ends[:, 1], values)


def test_the_sign_of_an_activation_is_its_colour() -> None:
    figure = plot_activations([1.0, -1.0, 2.0, -0.5], prompt="Paris is", **SHOWN)
    (stems,) = figure.axes[0].collections
    vermilion, blue = (213 / 255, 94 / 255, 0, 1), (0, 114 / 255, 178 / 255, 1)
    assert np.allclose(stems.get_edgecolor(), [vermilion, blue, vermilion, blue])


def test_a_rogue_neuron_leaves_the_others_readable() -> None:
    values = heavy_tailed(768)
    figure = plot_activations(values, prompt="Paris is", **SHOWN)
    low, high = figure.axes[0].get_ylim()
    largest = np.abs(np.delete(values, 3)).max()
    assert -1.5 * largest < low < high < 1.5 * largest
    assert stem_ends(figure)[3, 1] == low
    assert f"3: {MINUS}40.00" in labels(figure)
    assert "beyond the axis, marked ▲ or ▼: 1" in written(figure)


def test_triangles_stand_at_the_edge_of_the_axis() -> None:
    values = heavy_tailed(768)
    values[500] = 35
    axes = plot_activations(values, prompt="Paris is", **SHOWN).axes[0]
    up, down = (line for line in axes.lines if line.get_marker() in "^v")
    assert up.get_xydata().tolist() == [[500, axes.get_ylim()[1]]]
    assert down.get_xydata().tolist() == [[3, axes.get_ylim()[0]]]


def test_nothing_is_beyond_the_axis_without_a_rogue_neuron() -> None:
    values = np.linspace(-1, 2, 100)
    figure = plot_activations(values, prompt="Paris is", **SHOWN)
    assert figure.axes[0].get_ylim() == pytest.approx((-1.3, 2.3))
    assert "beyond" not in written(figure)


def test_neurons_that_are_mostly_zero_are_drawn_in_full() -> None:
    values = np.zeros(500)
    values[[7, 9]] = 3, -1
    figure = plot_activations(values, prompt="Paris is", **SHOWN)
    assert stem_ends(figure)[[7, 9], 1].tolist() == [3, -1]
    assert labels(figure) == ["7", "9"]


def test_the_strongest_neurons_are_listed_with_sign() -> None:
    values = np.array([0.5, -2.0, 0.0, 1.25, -0.75])
    figure = plot_activations(values, prompt="Paris is", strongest=3, **SHOWN)
    table = [text.get_text() for text in figure.texts[2:]]
    assert table == ["neuron", "1\n3\n4", "value", f"{MINUS}2.000\n+1.250\n{MINUS}0.750"]
    assert labels(figure) == ["1", "3", "4"]


def test_labels_that_would_cover_each_other_are_left_out() -> None:
    values = np.full(1024, 0.3)
    values[500:508] = 1.0
    figure = plot_activations(values, prompt="Paris is", **SHOWN)
    named = labels(figure)
    assert set(named) < {str(neuron) for neuron in range(500, 508)}
    assert len(named) > 1
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_the_heading_names_model_site_unit_and_prompt() -> None:
    figure = plot_activations([1.0, 2.0], prompt="Paris is", **SHOWN)
    title, notes = (text.get_text() for text in figure.texts[:2])
    assert title == "bert · layer 3"
    assert notes == "activation (mean over content tokens), 2 neurons\n“Paris is”"
    assert figure.axes[0].get_ylabel() == "activation (mean over content tokens)"


def test_above_1024_neurons_are_a_grid_row_by_row() -> None:
    values = heavy_tailed(1536)
    figure = plot_activations(values, prompt="Paris is", **SHOWN)
    assert np.array_equal(image_of(figure), values.reshape(32, 48))
    assert figure.axes[0].images[0].get_interpolation() == "nearest"
    assert f"neuron = row {chr(0xD7)} 48 + column" in figure.axes[0].get_xlabel()


def test_colours_end_at_the_percentile_that_the_bar_names() -> None:
    values = heavy_tailed(4096)
    figure = plot_activations(values, prompt="Paris is", **SHOWN)
    limit = np.percentile(np.abs(values), 99.5)
    assert figure.axes[0].images[0].get_clim() == pytest.approx((-limit, limit))
    assert f"clipped at ±{limit:.2f} (99.5th percentile)" in figure.axes[1].get_ylabel()


def test_colours_that_hold_all_values_are_not_called_clipped() -> None:
    values = np.zeros(2000)
    values[5] = -4
    figure = plot_activations(values, prompt="Paris is", **SHOWN)
    assert figure.axes[0].images[0].get_clim() == (-4, 4)
    assert figure.axes[1].get_ylabel().endswith("not clipped")


def test_places_without_a_neuron_are_blank() -> None:
    figure = plot_activations(heavy_tailed(1031), prompt="Paris is", **SHOWN)
    mask = np.ma.getmaskarray(image_of(figure))
    assert mask.sum() == 32 * 33 - 1031
    assert mask[-1, -25:].all()
    assert "grey: no neuron" in figure.axes[0].get_xlabel()


def test_the_difference_is_a_minus_b() -> None:
    a, b = heavy_tailed(384), np.random.default_rng(1).normal(size=384)
    figure = plot_difference(a, b, **COMPARED)
    limit = np.percentile(np.abs(a - b), 99.5)
    assert np.array_equal(image_of(figure), (a - b).reshape(16, 24))
    assert figure.axes[0].images[0].get_clim() == pytest.approx((-limit, limit))
    assert f"a {MINUS} b, activation, 384 neurons\na: “Paris is”\nb: “Rome is”" in written(figure)


def test_the_strongest_differences_are_marked_and_listed() -> None:
    a, b = np.zeros(384), np.zeros(384)
    a[[30, 200]], b[[30, 383]] = (1.5, 4.0), (2.0, 1.0)
    figure = plot_difference(a, b, strongest=2, **COMPARED)
    (marks,) = (c for c in figure.axes[0].collections if isinstance(c, PathCollection))
    assert marks.get_offsets().tolist() == [[200 % 24, 200 // 24], [383 % 24, 383 // 24]]
    assert labels(figure) == ["200", "383"]
    columns = ["200\n383", "+4.00\n+0.00", "+0.00\n+1.00", f"+4.00\n{MINUS}1.00"]
    assert [text.get_text() for text in figure.texts[3::2]] == columns


def test_in_a_small_grid_each_index_stands_in_its_own_cell() -> None:
    figure = plot_difference(np.arange(1.0, 7), np.zeros(6), **COMPARED)
    axes = figure.axes[0]
    for text in axes.texts:
        x, y = axes.transData.inverted().transform(axes.transAxes.transform(text.get_position()))
        assert round(y) * 3 + round(x) == int(text.get_text())


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([1.0, np.nan, np.inf], r"values holds 2 value\(s\) .* neuron 1 is nan"),
        ([], r"one row of neurons, not of shape \(0,\)"),
        ([[1.0, 2.0]], r"not of shape \(1, 2\)"),
        ([0.0, 0.0], "every activation is zero"),
    ],
)
def test_activations_that_cannot_be_drawn(values: list[float], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        plot_activations(values, prompt="Paris is", **SHOWN)


@pytest.mark.parametrize(
    ("a", "b", "fault"),
    [
        ([1.0, 2.0], [1.0], "a has 2 neurons, b has 1"),
        ([1.0], [np.nan], "b holds 1"),
        ([1.0, 2.0], [1.0, 2.0], "every difference a - b is zero"),
    ],
)
def test_differences_that_cannot_be_drawn(a: list[float], b: list[float], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        plot_difference(a, b, **COMPARED)


def test_no_strongest_neuron_is_refused() -> None:
    with pytest.raises(ValueError, match="strongest must be at least 1, not 0"):
        plot_activations([1.0], prompt="Paris is", strongest=0, **SHOWN)


def alike(pairs: int, layers: int) -> dict[tuple[str, str], dict[str, list[float | None]]]:
    """Values of cosine and MSE in two views that fall with the pair and rise with the layer."""
    values = {f"pair {k}": [1 - k / 100 + n / 1000 for n in range(layers)] for k in range(pairs)}
    return {
        (metric, view): dict(values) for metric in ("cosine", "mse") for view in ("all", "span")
    }


def by_layer(layers: int, series: dict, **options: object) -> Figure:
    return plot_by_layer(range(layers), series, views=("all", "span"), **LIKENESS, **options)


def test_up_to_eight_pairs_have_a_line_of_their_own_in_each_panel() -> None:
    series = alike(8, 12)
    figure = by_layer(12, series)
    assert [len(axes.lines) for axes in figure.axes] == [8] * 4
    for look in ("color", "marker"):
        assert len({getp(line, look) for line in figure.axes[0].lines}) == 8
    assert figure.axes[3].lines[5].get_ydata().tolist() == series["mse", "span"]["pair 5"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(series["mse", "span"])


def test_rows_are_metrics_and_columns_are_views() -> None:
    cosine, right, mse, _ = by_layer(12, alike(2, 12)).axes
    assert (cosine.get_title(), right.get_title()) == ("all", "span")
    assert (cosine.get_ylabel(), mse.get_ylabel()) == ("cosine similarity", "mean squared error")
    assert mse.get_xlabel() == "layer"
    assert right.get_shared_y_axes().joined(cosine, right)
    assert not mse.get_shared_y_axes().joined(cosine, mse)


def test_unknown_values_are_not_drawn() -> None:
    series = alike(2, 3)
    series["cosine", "all"]["pair 0"] = [0.5, None, np.nan]
    series["mse", "span"] = {"pair 0": [None, None, None]}
    figure = by_layer(3, series)
    assert np.isnan(figure.axes[0].lines[0].get_ydata()).tolist() == [False, True, True]
    assert [text.get_text() for text in figure.axes[3].texts] == ["n/a"]


def test_one_layer_is_a_marker() -> None:
    axes = by_layer(1, alike(1, 1)).axes[0]
    assert axes.lines[0].get_marker() == "o"
    assert axes.get_xticks().tolist() == [0]


def test_layer_ticks_are_thinned() -> None:
    assert by_layer(12, alike(1, 12)).axes[0].get_xticks().tolist() == list(range(12))
    figure = plot_by_layer(
        range(32),
        alike(1, 32) | {("cosine", "x"): {}, ("mse", "x"): {}},
        views=("all", "span", "x"),
        **LIKENESS,
    )
    assert figure.axes[0].get_xticks().tolist() == list(range(0, 32, 4))


def test_more_than_eight_pairs_are_grey_but_for_the_median_and_the_extremes() -> None:
    series = alike(60, 32)
    every, median, most, least = by_layer(32, series).axes[0].lines
    values = np.array(list(series["cosine", "all"].values()))
    assert np.array_equal(every.get_ydata().reshape(60, 33)[:, :-1], values)
    assert np.isnan(every.get_ydata()[32::33]).all()
    assert np.array_equal(median.get_ydata(), np.median(values, axis=0))
    assert median.get_linewidth() > 3 * every.get_linewidth()
    assert np.array_equal(most.get_ydata(), values[0])
    assert np.array_equal(least.get_ydata(), values[59])


def test_the_extremes_are_named() -> None:
    names = [t.get_text() for t in by_layer(3, alike(60, 3)).legends[0].get_texts()]
    assert names[2:] == ["most alike (cosine, all): pair 0", "least alike (cosine, all): pair 59"]
    figure = by_layer(3, alike(60, 3), metrics=("mse",))  # a small error is much alike
    assert figure.legends[0].get_texts()[2].get_text() == "most alike (mse, all): pair 59"


def test_errors_over_decades_are_logarithmic() -> None:
    series = alike(2, 2)
    series["mse", "all"]["pair 0"] = [0.001, 10.0]
    figure = by_layer(2, series)
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log", "log"]
    assert figure.axes[2].get_ylabel() == "mean squared error (log)"


@pytest.mark.parametrize(
    ("layers", "series", "fault"),
    [
        ([0, 1], {("cosine", "all"): {"a": [1.0]}}, "cosine in the view all of a must be 2 finite"),
        ([0], {("cosine", "all"): {"a": [np.inf]}}, "must be 1 finite"),
        ([1, 0], {("cosine", "all"): {"a": [1.0, 1.0]}}, "increasing integers"),
        ([], {("cosine", "all"): {"a": []}}, "one or more increasing integers"),
        ([0], {("cosine", "all"): {}}, "there is no pair"),
        ([0], {("cosine", "span"): {"a": [1.0]}}, "no cosine in the view all"),
    ],
)
def test_series_that_cannot_be_drawn(layers: list[int], series: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        plot_by_layer(layers, series, metrics=("cosine",), views=("all",), **LIKENESS)


def heat(values: Floats, **options: str) -> Figure:
    pairs = [f"pair {k}" for k in range(len(values))]
    shown = {**LIKENESS, "metric": "cosine", "view": "span", **options}
    return plot_pairs_by_layer(range(values.shape[1]), pairs, values, **shown)


def test_a_heat_map_shows_pairs_by_layers() -> None:
    values = np.linspace(0.2, 0.9, 36).reshape(6, 6)
    figure = heat(values)
    assert np.array_equal(image_of(figure), values)
    assert figure.axes[0].images[0].get_clim() == (0.2, 0.9)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        f"pair {k}" for k in range(6)
    ]
    assert labels(figure) == [f"{value:.2f}" for value in values.ravel()]
    assert figure.axes[1].get_ylabel() == "cosine similarity"
    assert "cosine similarity; view: span\npairs of prompts: 6; layers: 6" in written(figure)


def test_numbers_stand_out_from_their_cells() -> None:
    dark, bright = heat(np.array([[0.0, 1.0]])).axes[0].texts
    assert (dark.get_color(), bright.get_color()) == ("white", "#222222")


def test_numbers_are_upright_where_they_do_not_fit_and_absent_where_there_are_many() -> None:
    values = np.linspace(0.2, 0.9, 60 * 32).reshape(60, 32)
    assert {text.get_rotation() for text in heat(values[:3]).axes[0].texts} == {90}
    assert len(heat(values[:3]).axes[0].texts) == 96
    assert labels(heat(values)) == []


def test_missing_cells_are_hatched_and_explained() -> None:
    values = np.array([[0.1, np.nan], [0.3, 0.4]])
    figure = heat(values)
    assert np.ma.getmaskarray(image_of(figure)).tolist() == [[False, True], [False, False]]
    assert labels(figure) == ["0.10", "0.30", "0.40"]
    assert figure.axes[0].patch.get_hatch() == "////"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["n/a"]
    assert heat(values[1:]).legends == []


def test_a_heat_map_of_equal_or_no_values_has_a_colour_range() -> None:
    assert heat(np.ones((2, 3))).axes[0].images[0].get_clim() == (0.95, 1.05)
    assert heat(np.full((2, 3), np.nan)).axes[0].images[0].get_clim() == (0, 1)


def test_a_heat_map_grows_with_its_pairs_up_to_a_limit() -> None:
    heights = [heat(np.ones((pairs, 2))).get_figheight() for pairs in (6, 30, 60, 100, 400)]
    assert heights == sorted(heights)
    assert heights[-1] == heights[-2] < 13
    labelled = heat(np.ones((400, 2))).axes[0]
    assert len(labelled.get_yticks()) == 50
    assert "one pair in 8 is named" in labelled.get_xlabel()


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (np.ones((2, 2)), r"shape \(2, 2\) must be \(pairs, layers\) = \(2, 3\)"),
        (np.array([[1, np.inf, 1], [1, 1, 1]]), "1 infinite"),
    ],
)
def test_heat_maps_that_cannot_be_drawn(values: Floats, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        plot_pairs_by_layer([0, 1, 2], ["a", "b"], values, metric="mse", view="all", **LIKENESS)


def every_figure(text: str) -> list[Figure]:
    """One figure of each kind whose strings are all `text`."""
    names = {"model": text, "site": text, "unit": text}
    shown = {"model": text, "component": text}
    pair = {text: [1.0, None], text + "2": [2.0, 3.0]}
    return [
        plot_activations(heavy_tailed(16), prompt=text, **names),
        plot_activations(heavy_tailed(1100), prompt=text, **names),
        plot_difference(heavy_tailed(16), np.ones(16), prompt_a=text, prompt_b=text, **names),
        plot_by_layer([0, 1], {(text, text): pair}, metrics=[text], views=[text], **shown),
        plot_pairs_by_layer([0, 1], [text], [[1, np.nan]], metric=text, view=text, **shown),
    ]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_is_drawn_without_complaint(text: str) -> None:
    for figure in every_figure(text):
        save_png(figure, io.BytesIO(), dpi=30)


def test_prompts_are_neither_mathematics_nor_missing_letters() -> None:
    figure = plot_activations([1.0], prompt="$x$ \n 中_🙂", **SHOWN)
    assert r"“\$x\$ □_□”" in written(figure)


def test_a_pair_whose_name_starts_with_an_underscore_is_in_the_legend() -> None:
    series = {("mse", "all"): {"_a": [1.0], "b": [2.0]}}
    figure = plot_by_layer([0], series, metrics=["mse"], views=["all"], **LIKENESS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["_a", "b"]


def test_long_prompts_keep_their_beginning_and_their_end() -> None:
    figure = plot_activations([1.0], prompt="Once upon a time " * 500 + "the end.", **SHOWN)
    _, first, second = figure.texts[1].get_text().split("\n")
    assert first.startswith("“Once upon a time")
    assert second.endswith("the end.”")
    assert "…" in second


@given(st.text(max_size=300), st.floats(0.3, 5), st.integers(1, 3))
def test_wrapped_text_fits(text: str, width: float, lines: int) -> None:
    wrapped = plot_layout.wrap(plot_layout.plain(text), 10, width, lines)
    assert len(wrapped) <= lines
    assert all(plot_layout.text_width(line, 10) <= width for line in wrapped)


@pytest.mark.parametrize("text", ["Wide Words " * 200, "W" * 2000])
def test_all_text_lies_within_the_figure(text: str) -> None:
    for figure in every_figure(text):
        box = figure.get_tightbbox()
        wide, high = figure.get_size_inches()
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= wide and box.y1 <= high


@pytest.mark.parametrize("draw", [lambda: heat(np.eye(3)), lambda: every_figure("Paris is")[0]])
def test_the_same_figure_gives_the_same_png(draw: Callable[[], Figure]) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    save_png(draw(), first)
    save_png(draw(), second)
    assert first.getvalue() == second.getvalue()
    assert first.getvalue().startswith(b"\x89PNG")
    assert b"Software" not in first.getvalue()
