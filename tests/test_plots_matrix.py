"""Heat maps: cells, numbers, names and colours."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from figures import COSINE, MINUS, Floats, image_of, legend_names, text_inside, text_outside
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from neuroscope.reporting.plots import plot_matrix


def heat(values: ArrayLike, **options: Any) -> Figure:
    """Draw pairs by layers."""
    cells = np.asarray(values)
    pairs = [f"pair {k}" for k in range(len(cells))]
    return matrix(cells, pairs, range(cells.shape[1]), **options)


def between_layers(values: ArrayLike, **options: Any) -> Figure:
    """Draw layers by layers."""
    rows, columns = np.shape(values)
    return matrix(values, range(rows), range(columns), square=True, **options)


def matrix(values: ArrayLike, rows: Any, columns: Any, **options: Any) -> Figure:
    return plot_matrix(values, rows, columns, metric=COSINE, title="bert", noun="pair", **options)


def tick_names(figure: Figure) -> tuple[list[str], list[str]]:
    """Return the names of the columns and of the rows."""
    axes = figure.axes[0]
    columns, rows = axes.get_xticklabels(), axes.get_yticklabels()
    return [name.get_text() for name in columns], [name.get_text() for name in rows]


def test_a_heat_map_shows_rows_by_columns() -> None:
    values = np.linspace(0.2, 0.9, 36).reshape(6, 6)
    figure = heat(values, notes=["view: span", "6 pairs"])
    assert np.array_equal(image_of(figure), values)
    assert figure.axes[0].images[0].get_clim() == (0.2, 0.9)
    assert tick_names(figure) == (list("012345"), [f"pair {k}" for k in range(6)])
    assert text_inside(figure) == [f"{value:.2f}" for value in values.ravel()]
    assert figure.axes[1].get_ylabel() == "cosine similarity"
    assert text_outside(figure) == "bert\nview: span\n6 pairs"


def test_names_start_at_the_top_and_layers_at_the_bottom() -> None:
    values = np.array([[0.1, 0.2], [0.3, 0.4]])
    for figure, first_row in ((heat(values), 1), (between_layers(values), 0)):
        low, high = figure.axes[0].get_ylim()
        assert (low > high) == bool(first_row)
        assert [text.get_position()[1] for text in figure.axes[0].texts] == [0, 0, 1, 1]


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (33, 33), (6, 32), (32, 6)])
def test_square_cells_are_square_and_fit(shape: tuple[int, int]) -> None:
    figure = between_layers(np.linspace(0, 1, np.prod(shape)).reshape(shape))
    box = figure.axes[0].bbox
    assert box.width / shape[1] == pytest.approx(box.height / shape[0])
    assert figure.axes[1].bbox.x1 < figure.bbox.width


def test_colours_have_fixed_limits_if_given() -> None:
    values = np.array([[0.1, 0.5], [0.5, 0.7]])
    figure = between_layers(values, limits=(0, 1))
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    assert text_inside(figure) == ["0.10", "0.50", "0.50", "0.70"]


@pytest.mark.parametrize(
    ("limits", "extend"),
    [((0, 1), "neither"), ((0.2, 1), "min"), ((0, 0.6), "max"), ((0.2, 0.6), "both")],
)
def test_the_colour_bar_marks_values_beyond_its_limits(
    limits: tuple[float, float], extend: str
) -> None:
    figure = between_layers([[0.1, 0.5], [0.5, 0.7]], limits=limits)
    assert figure.axes[0].images[0].colorbar.extend == extend


def test_the_colour_bar_of_counts_has_no_fractions() -> None:
    counts = heat([[0, 3], [1, 2]]).axes[0].images[0].colorbar
    assert all(float(tick).is_integer() for tick in counts.get_ticks())
    shares = heat([[0.0, 0.3]]).axes[0].images[0].colorbar
    assert not all(float(tick).is_integer() for tick in shares.get_ticks())


def test_numbers_contrast_with_their_cells() -> None:
    dark, bright = heat([[0.0, 1.0]]).axes[0].texts
    assert (dark.get_color(), bright.get_color()) == ("white", "#222222")


def test_numbers_are_upright_if_they_do_not_fit_and_absent_if_there_are_many() -> None:
    values = np.linspace(0.2, 0.9, 60 * 32).reshape(60, 32)
    assert {text.get_rotation() for text in heat(values[:3]).axes[0].texts} == {90}
    assert len(heat(values[:3]).axes[0].texts) == 96
    assert text_inside(heat(values)) == []


def test_numbers_show_digits_that_differ() -> None:
    assert text_inside(heat([[1.0, 1.002]])) == ["1.0000", "1.0020"]
    assert text_inside(heat([[1.0, 1 - 1e-7]])) == ["1.00000", "1.00000"]
    assert text_inside(heat([[0.0, 2e-7]])) == ["0.00e+00", f"2.00e{MINUS}07"]


def test_missing_cells_are_hatched_and_explained() -> None:
    values = np.array([[0.1, np.nan], [0.3, 0.4]])
    figure = heat(values)
    assert np.ma.getmaskarray(image_of(figure)).tolist() == [[False, True], [False, False]]
    assert text_inside(figure) == ["0.10", "0.30", "0.40"]
    assert figure.axes[0].patch.get_hatch() == "////"
    assert legend_names(figure) == ["n/a"]
    assert heat(values[1:]).legends == []


def test_equal_or_missing_values_have_a_colour_range() -> None:
    assert heat(np.ones((2, 3))).axes[0].images[0].get_clim() == (0.95, 1.05)
    assert heat(np.full((2, 3), np.nan)).axes[0].images[0].get_clim() == (0, 1)


def test_a_heat_map_grows_with_its_rows_up_to_a_limit() -> None:
    heights = [heat(np.ones((pairs, 2))).get_figheight() for pairs in (6, 30, 60, 100, 400)]
    assert heights == sorted(heights)
    assert heights[-1] == heights[-2] < 13
    figure = heat(np.ones((400, 2)))
    assert tick_names(figure)[1] == [f"pair {k}" for k in range(0, 400, 8)]
    assert "one pair in 8 is named" in figure.axes[0].get_xlabel()


def test_layer_names_are_thinned_without_a_remark() -> None:
    figure = between_layers(np.eye(64))
    assert tick_names(figure) == (
        [str(n) for n in range(0, 64, 4)],
        [str(n) for n in range(0, 64, 2)],
    )
    assert figure.axes[0].get_xlabel() == "layer"


def test_column_names_are_upright_if_they_do_not_fit() -> None:
    names = ["politics", "mathematics", "$x$"]
    wide, narrow = (matrix(np.ones((1, n)), ["a"], (names * n)[:n]) for n in (3, 30))
    assert {name.get_rotation() for name in wide.axes[0].get_xticklabels()} == {0}
    assert {name.get_rotation() for name in narrow.axes[0].get_xticklabels()} == {90}
    assert tick_names(wide)[0] == ["politics", "mathematics", r"\$x\$"]
    assert len(tick_names(narrow)[0]) == 30


def test_column_names_without_room_are_thinned_with_a_remark() -> None:
    figure = matrix(np.ones((1, 100)), ["a"], [f"topic {k}" for k in range(100)])
    assert tick_names(figure)[0] == [f"topic {k}" for k in range(0, 100, 2)]
    assert "one column in 2 is named" in figure.axes[0].get_xlabel()


def test_one_row_name_is_left_if_rows_are_thin() -> None:
    figure = matrix(np.ones((2, 200)), ["a", "b"], range(200), square=True)
    assert tick_names(figure)[1] == ["a"]
    assert "one pair in 2 is named" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (np.ones((2, 2)), r"\(2, 2\).*\(2, 3\)"),
        (np.array([[1, np.inf, 1], [1, 1, 1]]), r"\b1 infinite"),
    ],
)
def test_values_that_cannot_be_drawn_are_refused(values: Floats, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        matrix(values, ["a", "b"], [0, 1, 2])


def test_an_empty_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        matrix(np.ones((0, 1)), [], [0])


@pytest.mark.parametrize("limits", [(1, 1), (0.6, None), (None, 0.4)])
def test_limits_that_do_not_increase_are_refused(limits: tuple[float, float]) -> None:
    low, high = (0.5 if limit is None else limit for limit in limits)
    with pytest.raises(ValueError, match=rf"\({low}, {high}\)"):
        heat([[0.5]], limits=limits)


@pytest.mark.parametrize(
    ("values", "limits", "range"),
    [
        ([[0.2, 0.6]], (0, None), (0, 0.6)),
        ([[0.2, 0.6]], (None, 1), (0.2, 1)),
        ([[0, 0]], (0, None), (0, 0.05)),
        ([[1, 1]], (None, 1), (0.95, 1)),
        ([[np.nan]], (0, None), (0, 1)),
    ],
)
def test_colours_may_have_one_fixed_limit(
    values: ArrayLike, limits: tuple[float | None, float | None], range: tuple[float, float]
) -> None:
    assert heat(values, limits=limits).axes[0].images[0].get_clim() == range


def test_80_layers_by_30_long_names_are_readable() -> None:
    names = [
        f"{k} topic with a name of sixty characters that goes on and on, ok" for k in range(30)
    ]
    figure = matrix(np.random.default_rng(0).random((30, 80)), names, range(80))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert len(axes.get_yticklabels()) == 30
    for ticks in (axes.get_yticklabels(), axes.get_xticklabels()):
        boxes = [tick.get_window_extent() for tick in ticks]
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))
        assert all(box.x0 >= 0 for box in boxes)


def test_the_figure_is_as_wide_as_square_cells_need() -> None:
    few, many = between_layers(np.eye(6)), between_layers(np.eye(48))
    assert few.get_size_inches()[0] < many.get_size_inches()[0] <= 10
    assert heat(np.eye(6)).get_size_inches()[0] == pytest.approx(10)
