"""Figures of single neurons: drawing, labels, clipping and refused values."""

import numpy as np
import pytest
from figures import MINUS, Floats, image_of, text_inside, text_outside
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from neuroscope.reporting.plots import grid_shape, plot_activations, plot_difference

ABOUT = {"model": "bert", "site": "resid_post.3"}
PROMPTS = {"prompt_a": "Paris is", "prompt_b": "Rome is", "unit": "activation"}


def draw(values: ArrayLike, **options: int) -> Figure:
    return plot_activations(values, prompt="Paris is", **ABOUT, **options)


def draw_difference(a: ArrayLike, b: ArrayLike, **options: int) -> Figure:
    return plot_difference(a, b, **ABOUT, **PROMPTS, **options)


def heavy_tailed(neurons: int) -> Floats:
    """Return (neurons,) activations, of which neuron 3 is the strongest: -40."""
    values = 0.3 * np.random.default_rng(neurons).standard_t(4, neurons)
    values[3] = -40
    return values


def stem_ends(figure: Figure) -> Floats:
    """Return the neuron and height of each stem, (neurons, 2)."""
    (stems,) = (c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    return np.array([segment[1] for segment in stems.get_segments()])


@pytest.mark.parametrize(
    ("neurons", "shape"),
    [
        *((1, (1, 1)), (384, (16, 24)), (768, (24, 32)), (1024, (32, 32)), (1536, (32, 48))),
        *((3072, (48, 64)), (4096, (64, 64)), (11008, (86, 128)), (14336, (112, 128))),
        *((3, (2, 2)), (7, (3, 3)), (1031, (32, 33)), (2 * 1031, (45, 46))),
    ],
)
def test_grid_shapes(neurons: int, shape: tuple[int, int]) -> None:
    assert grid_shape(neurons) == shape


@given(st.integers(1, 200_000))
def test_a_grid_holds_every_neuron_and_only_its_last_row_may_have_empty_cells(neurons: int) -> None:
    rows, columns = grid_shape(neurons)
    assert rows <= columns <= 2.5 * rows
    assert 0 <= rows * columns - neurons < columns


def test_a_grid_without_neurons_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\b0\b"):
        grid_shape(0)


@pytest.mark.parametrize("neurons", [1, 2, 768, 1024])
def test_up_to_1024_neurons_have_one_stem_each(neurons: int) -> None:
    values = np.linspace(-1, 2, neurons)
    ends = stem_ends(draw(values))
    assert np.array_equal(ends[:, 0], np.arange(neurons))
    assert np.allclose(ends[:, 1], values)


def test_the_sign_of_an_activation_is_its_colour() -> None:
    figure = draw([1.0, -1.0, 2.0, -0.5])
    (stems,) = figure.axes[0].collections
    vermilion, blue = (213 / 255, 94 / 255, 0, 1), (0, 114 / 255, 178 / 255, 1)
    assert np.allclose(stems.get_edgecolor(), [vermilion, blue, vermilion, blue])


def test_an_outlier_neuron_leaves_the_others_readable() -> None:
    values = heavy_tailed(768)
    figure = draw(values)
    low, high = figure.axes[0].get_ylim()
    largest = np.abs(np.delete(values, 3)).max()
    assert -1.5 * largest < low < high < 1.5 * largest
    assert stem_ends(figure)[3, 1] == low
    assert f"3: {MINUS}40.00" in text_inside(figure)
    assert "beyond the axis, marked ▲ or ▼: 1" in text_outside(figure)


def test_triangles_are_at_the_edges_of_the_axis() -> None:
    values = heavy_tailed(768)
    values[500] = 35
    axes = draw(values).axes[0]
    up, down = (line for line in axes.lines if line.get_marker() in "^v")
    assert up.get_xydata().tolist() == [[500, axes.get_ylim()[1]]]
    assert down.get_xydata().tolist() == [[3, axes.get_ylim()[0]]]


def test_no_neuron_is_beyond_the_axis_without_an_outlier() -> None:
    values = np.linspace(-1, 2, 100)
    figure = draw(values)
    assert figure.axes[0].get_ylim() == pytest.approx((-1.3, 2.3))
    assert "beyond" not in text_outside(figure)


def test_neurons_that_are_mostly_zero_are_drawn_in_full() -> None:
    values = np.zeros(500)
    values[[7, 9]] = 3, -1
    figure = draw(values)
    assert stem_ends(figure)[[7, 9], 1].tolist() == [3, -1]
    assert text_inside(figure) == ["7", "9"]


def test_the_strongest_neurons_are_listed_with_sign() -> None:
    values = np.array([0.5, -2.0, 0.0, 1.25, -0.75])
    figure = draw(values, strongest=3)
    table = [text.get_text() for text in figure.texts[2:]]
    assert table == ["neuron", "1\n3\n4", "value", f"{MINUS}2.000\n+1.250\n{MINUS}0.750"]
    assert text_inside(figure) == ["1", "3", "4"]


def test_labels_that_would_overlap_are_left_out() -> None:
    values = np.full(1024, 0.3)
    values[500:508] = 1.0
    figure = draw(values)
    labels = text_inside(figure)
    assert set(labels) < {str(neuron) for neuron in range(500, 508)}
    assert len(labels) > 1
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_the_heading_names_model_site_unit_and_prompt() -> None:
    figure = draw([1.0, 2.0])
    title, notes = (text.get_text() for text in figure.texts[:2])
    assert title == "bert · resid_post.3"
    assert notes == "activation (mean over content tokens), 2 neurons\n“Paris is”"
    assert figure.axes[0].get_ylabel() == "activation (mean over content tokens)"


def test_more_than_1024_neurons_are_a_grid_row_by_row() -> None:
    values = heavy_tailed(1536)
    figure = draw(values)
    assert np.array_equal(image_of(figure), values.reshape(32, 48))
    assert figure.axes[0].images[0].get_interpolation() == "nearest"
    assert f"neuron = row {chr(0xD7)} 48 + column" in figure.axes[0].get_xlabel()


def test_colours_end_at_the_percentile_that_the_bar_names() -> None:
    values = heavy_tailed(4096)
    figure = draw(values)
    limit = np.percentile(np.abs(values), 99.5)
    assert figure.axes[0].images[0].get_clim() == pytest.approx((-limit, limit))
    assert f"clipped at ±{limit:.2f} (99.5th percentile)" in figure.axes[1].get_ylabel()


def test_colours_that_cover_all_values_are_not_called_clipped() -> None:
    values = np.zeros(2000)
    values[5] = -4
    figure = draw(values)
    assert figure.axes[0].images[0].get_clim() == (-4, 4)
    assert figure.axes[1].get_ylabel().endswith("not clipped")


def test_cells_without_a_neuron_are_blank() -> None:
    figure = draw(heavy_tailed(1031))
    mask = np.ma.getmaskarray(image_of(figure))
    assert mask.sum() == 32 * 33 - 1031
    assert mask[-1, -25:].all()
    assert "grey: no neuron" in figure.axes[0].get_xlabel()


def test_the_difference_is_a_minus_b() -> None:
    a, b = heavy_tailed(384), np.random.default_rng(1).normal(size=384)
    figure = draw_difference(a, b)
    limit = np.percentile(np.abs(a - b), 99.5)
    assert np.array_equal(image_of(figure), (a - b).reshape(16, 24))
    assert figure.axes[0].images[0].get_clim() == pytest.approx((-limit, limit))
    assert f"a {MINUS} b, activation, 384 neurons\na: “Paris is”\nb: “Rome is”" in text_outside(
        figure
    )


def test_the_strongest_differences_are_marked_and_listed() -> None:
    a, b = np.zeros(384), np.zeros(384)
    a[[30, 200]], b[[30, 383]] = (1.5, 4.0), (2.0, 1.0)
    figure = draw_difference(a, b, strongest=2)
    (marks,) = (c for c in figure.axes[0].collections if isinstance(c, PathCollection))
    assert marks.get_offsets().tolist() == [[200 % 24, 200 // 24], [383 % 24, 383 // 24]]
    assert text_inside(figure) == ["200", "383"]
    columns = ["200\n383", "+4.00\n+0.00", "+0.00\n+1.00", f"+4.00\n{MINUS}1.00"]
    assert [text.get_text() for text in figure.texts[3::2]] == columns


def test_in_a_small_grid_each_index_is_inside_its_cell() -> None:
    figure = draw_difference(np.arange(1.0, 7), np.zeros(6))
    axes = figure.axes[0]
    for text in axes.texts:
        x, y = axes.transData.inverted().transform(axes.transAxes.transform(text.get_position()))
        assert round(y) * 3 + round(x) == int(text.get_text())


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([1.0, np.nan, np.inf], r"values .*\b2\b.* neuron 1 .*nan"),
        ([], r"\(0,\)"),
        ([[1.0, 2.0]], r"\(1, 2\)"),
        ([0.0, 0.0], "zero"),
    ],
)
def test_activations_that_cannot_be_drawn_are_refused(values: list, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        draw(values)


@pytest.mark.parametrize(
    ("a", "b", "fault"),
    [
        ([1.0, 2.0], [1.0], "2 .* 1"),
        ([1.0], [np.nan], "b .*neuron 0"),
        ([1.0, 2.0], [1.0, 2.0], "zero"),
    ],
)
def test_differences_that_cannot_be_drawn_are_refused(a: list, b: list, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        draw_difference(a, b)


def test_an_empty_list_of_neurons_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\b0\b"):
        draw([1.0], strongest=0)
