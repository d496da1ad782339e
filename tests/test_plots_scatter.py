"""Figures of neurons in two models: points, topics, density, titles, ticks and refused values."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from figures import MINUS, Floats, legend_names, text_outside
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuroscope.reporting.plots import NeuronPair, plot_neuron_pairs

LONG = "neuron with a name of sixty characters, which is a long name"


def neuron(prompts: int, name: str = "mlp_act.3 neuron 7", scale: float = 1.0) -> NeuronPair:
    base, noise = scale * np.random.default_rng(prompts).normal(size=(2, prompts))
    return NeuronPair(name, base, base + 0.3 * noise, 0.0421)


def draw(neurons: list[NeuronPair], **options: Any) -> Figure:
    labels = {"x_label": "activation in base", "y_label": "activation in candidate"}
    return plot_neuron_pairs(neurons, title="v1 → v2", **labels, **options)


def points_by_color(axes: Axes) -> dict[str, Floats]:
    """Return the points of each colour, (points, 2), without the diagonal."""
    colors: dict[str, list[Floats]] = {}
    for line in axes.lines[:-1]:
        colors.setdefault(line.get_color(), []).append(line.get_xydata())
    return {color: np.concatenate(points) for color, points in colors.items()}


@pytest.mark.parametrize("prompts", [1, 20, 5000])
def test_each_prompt_is_a_point(prompts: int) -> None:
    pair = neuron(prompts)
    ((_, points),) = points_by_color(draw([pair]).axes[0]).items()
    expected = np.column_stack([pair.base, pair.candidate])
    assert sorted(points.tolist()) == sorted(expected.tolist())


def test_axes_are_square_with_equal_limits_around_the_diagonal() -> None:
    for axes in draw([neuron(20), neuron(20, scale=0.01)]).axes:
        assert axes.bbox.width == pytest.approx(axes.bbox.height)
        assert axes.get_xlim() == axes.get_ylim()
        low, high = axes.get_xlim()
        assert axes.lines[-1].get_xydata().tolist() == [[low, low], [high, high]]
        assert all(((low < p) & (p < high)).all() for p in points_by_color(axes).values())


def test_titles_name_the_neuron_and_its_distance() -> None:
    base = [1.0, 2.0]
    distances = {0.0421: "0.0421", 0.0: "0", 1e-12: f"1e{MINUS}12", np.nan: "n/a"}
    figure = draw([NeuronPair(f"neuron {d}", base, base, d) for d in distances])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [f"neuron {d}\n1 {MINUS} r = {text}" for d, text in distances.items()]


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (6, 3)])
def test_panels_are_in_rows_and_labelled_at_the_edges(count: int, columns: int) -> None:
    figure = draw([neuron(20)] * count)
    lefts = [round(axes.get_position().x0, 6) for axes in figure.axes]
    assert len(set(lefts)) == columns
    for number, axes in enumerate(figure.axes):
        assert bool(axes.get_ylabel()) == (lefts[number] == min(lefts))
        assert bool(axes.get_xlabel()) == (number + columns >= count)


@pytest.mark.parametrize(("count", "prompts"), [(1, 20), (2, 20), (5, 20), (6, 6000)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 3e4])
def test_long_names_and_numbers_neither_overlap_nor_leave_the_page(
    count: int, prompts: int, scale: float
) -> None:
    figure = draw([neuron(prompts, LONG, scale)] * count)
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes[:count]]
    for axes in figure.axes[:count]:
        ticks = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert len(ticks) >= 2
        assert not any(a.overlaps(b) for a, b in pairwise(ticks))
        boxes += [*ticks, *(label.get_window_extent() for label in axes.get_yticklabels())]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)


def test_ticks_are_fewer_if_their_labels_are_long() -> None:
    for reach, ticks in ((4.5, 5), (0.00045, 3)):
        level = np.linspace(-reach, reach, 20)
        for axes in draw([NeuronPair("level", level, level, 0.0)] * 3).axes:
            assert len(axes.get_xticks()) == len(axes.get_yticks()) == ticks


def test_topics_have_a_colour_and_a_shape() -> None:
    pair, topics = neuron(40), ["sports", "banking"] * 20
    figure = draw([pair], topics=topics)
    points = points_by_color(figure.axes[0])
    samples = figure.legends[0].legend_handles
    for k, sample in enumerate(samples[:2]):
        expected = np.column_stack([pair.base[k::2], pair.candidate[k::2]])
        assert sorted(points[sample.get_color()].tolist()) == sorted(expected.tolist())
    assert samples[0].get_marker() != samples[1].get_marker()
    assert legend_names(figure) == ["sports", "banking", "candidate = base"]


def test_topics_are_drawn_in_turns() -> None:
    figure = draw([neuron(400)], topics=["sports"] * 200 + ["banking"] * 200)
    colors = [line.get_color() for line in figure.axes[0].lines[:-1]]
    assert len(set(colors)) == 2 < len(colors)
    assert all(a != b for a, b in pairwise(colors))


def test_the_topics_with_the_most_prompts_have_colours_and_others_are_grey() -> None:
    topics = [f"topic {k}" for k in range(12) for _ in range(k + 1)] + [""] * 30
    figure = draw([neuron(len(topics))], topics=topics)
    names = [f"topic {k}" for k in range(11, 4, -1)]
    assert legend_names(figure) == [*names, "other", "candidate = base"]
    grey = figure.legends[0].legend_handles[7].get_color()
    assert len(points_by_color(figure.axes[0])[grey]) == 1 + 2 + 3 + 4 + 5 + 30
    levels = {line.get_color(): line.get_zorder() for line in figure.axes[0].lines}
    assert levels.pop(grey) < min(levels.values())


def test_many_prompts_are_drawn_as_density() -> None:
    level = np.linspace(-1, 1, 6000)
    pairs = [neuron(6000), NeuronPair("even", level, level, 0.0)]
    figure = draw(pairs, topics=["sports"] * 6000)
    *panels, bar = figure.axes
    hexagons = [axes.collections[0] for axes in panels]
    assert [counts.get_array().sum() for counts in hexagons] == [6000, 6000]
    first, second = (counts.get_array().max() for counts in hexagons)
    assert first != second
    most = max(first, second)
    assert {counts.get_clim() for counts in hexagons} == {(1, most)}
    assert bar.get_ylabel() == "prompts per hexagon (log)"
    assert legend_names(figure) == ["candidate = base"]
    assert "topics are not shown above 5,000 prompts" in text_outside(figure)
    assert "topics" not in text_outside(draw(pairs))


def test_numbers_of_neurons_that_cannot_be_drawn_are_refused() -> None:
    for count in (0, 7):
        with pytest.raises(ValueError, match=rf"\b{count}\b"):
            draw([neuron(3)] * count)


@pytest.mark.parametrize(
    ("base", "candidate", "topics", "fault"),
    [
        ([1.0, 2.0], [1.0], None, r"\(2,\), \(1,\)"),
        ([1.0], [1.0], ["a", "b"], r"\(1,\).*\(2,\)"),
        ([[1.0]], [[1.0]], None, r"\(1, 1\)"),
        ([], [], None, r"\(0,\)"),
        ([1.0], [np.nan], None, "finite"),
        ([np.inf], [1.0], None, "finite"),
    ],
)
def test_activations_that_cannot_be_drawn_are_refused(
    base: list, candidate: list, topics: list | None, fault: str
) -> None:
    with pytest.raises(ValueError, match=f"'n 1'.*{fault}"):
        draw([NeuronPair("n 1", base, candidate, 0.1)], topics=topics)


def test_neurons_with_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'other'.*\(4,\).*\(3,\)"):
        draw([neuron(3), neuron(4, "other")])
