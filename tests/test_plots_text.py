"""Text in every kind of figure: hostile strings, long strings, reproducible files."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from figures import COSINE, HOSTILE, legend_names, text_outside
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.plots import (
    Band,
    Curve,
    NeuronPair,
    Panel,
    VersionCheck,
    plot_activations,
    plot_curves,
    plot_difference,
    plot_history,
    plot_matrix,
    plot_neuron_pairs,
    plot_patching,
    save_png,
)
from neuroscope.reporting.plots.text import plain, text_width, wrap


def every_figure(text: str) -> list[Figure]:
    """Draw one figure of each kind whose strings are all `text`."""
    names = {"model": text, "site": text, "unit": text}
    few, many = np.linspace(-1, 2, 16), np.linspace(-1, 2, 1100)
    metric = Metric(text, text, text, "high")
    heading = {"title": text, "notes": [text, text]}
    axes = {"metric": metric, "x_label": text, "y_label": text, "noun": text}
    return [
        plot_activations(few, prompt=text, **names),
        plot_activations(many, prompt=text, **names),
        plot_difference(few, np.ones(16), prompt_a=text, prompt_b=text, **names),
        plot_curves(panels(text, metric, 2), **heading),
        plot_curves(panels(text, metric, 9), noun=text, ends=(text, text + "2"), **heading),
        plot_matrix([[1, np.nan]], [text], [text, text], **axes, **heading),
        plot_matrix(np.eye(2), range(2), range(2), square=True, **axes, **heading),
        plot_patching(range(2), [0.1, 0.9], metric=metric, **heading),
        plot_history([VersionCheck(1, 0, 0, 1, "drifted")], margin=1, metric=metric, **heading),
        *(neuron_pairs(text, count, prompts) for count, prompts in ((1, 9), (5, 9), (6, 5001))),
    ]


def neuron_pairs(text: str, count: int, prompts: int) -> Figure:
    """Draw neurons with large activations, whose tick labels are long."""
    values = np.linspace(-40_000, 80_000, prompts)
    neurons = [NeuronPair(text, values, -values, 2.0)] * count
    names = [text + "i" * k for k in range(9)]
    topics = [names[k % 9] for k in range(prompts)]
    labels = {"x_label": text, "y_label": text, "title": text, "notes": [text]}
    return plot_neuron_pairs(neurons, topics=topics, **labels)


def panels(text: str, metric: Metric, curves: int) -> list[list[Panel]]:
    """Return two rows of two panels, with a y axis of its own for each."""
    named = {text + "i" * k: Curve([0, 1], [k, None], ([k - 1, 0], [k, 1])) for k in range(curves)}
    other = Metric(text + "2", text, text, "low")
    band = Band(text, [0, 1], [0, 0], [1, 1])
    row = [Panel(metric, named, text, {text: 0.5}, band=band), Panel(other, named, text)]
    return [row, row]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_is_drawn_without_a_warning(text: str) -> None:
    for figure in every_figure(text):
        save_png(figure, io.BytesIO(), dpi=30)


def test_text_is_neither_mathematics_nor_missing_glyphs() -> None:
    figure = plot_activations([1.0], model="bert", site="mlp_act.3", prompt="$x$ \n 中_🙂")
    assert r"“\$x\$ □_□”" in text_outside(figure)


def test_names_that_start_with_an_underscore_are_in_the_legend() -> None:
    curves = {"_a": Curve([0], [1.0]), "b": Curve([0], [2.0])}
    figure = plot_curves([[Panel(COSINE, curves, references={"_c": 1.5})]], title="bert")
    assert legend_names(figure) == ["_a", "b", "_c"]


def test_long_prompts_keep_their_beginning_and_their_end() -> None:
    prompt = "Once upon a time " * 500 + "the end."
    figure = plot_activations([1.0], model="bert", site="mlp_act.3", prompt=prompt)
    _, first, second = figure.texts[1].get_text().split("\n")
    assert first.startswith("“Once upon a time")
    assert second.endswith("the end.”")
    assert "…" in second


@given(st.text(max_size=300), st.floats(0.3, 5), st.integers(1, 3))
def test_wrapped_text_fits(text: str, width: float, lines: int) -> None:
    wrapped = wrap(plain(text), 10, width, lines)
    assert len(wrapped) <= lines
    assert all(text_width(line, 10) <= width for line in wrapped)


@pytest.mark.parametrize("text", ["Wide Words " * 200, "W" * 2000, "layer of minilm"])
def test_all_text_is_inside_the_figure(text: str) -> None:
    for figure in every_figure(text):
        box = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= width and box.y1 <= height


def one_matrix() -> Figure:
    return plot_matrix(np.eye(3), ["a", "b", "c"], range(3), metric=COSINE, title="bert")


def one_activation() -> Figure:
    return plot_activations(np.linspace(-1, 2, 16), prompt="Paris", model="bert", site="mlp_act.3")


def two_rows_of_curves() -> Figure:
    return plot_curves(panels("Paris", COSINE, 2), title="bert")


@pytest.mark.parametrize("draw", [one_matrix, one_activation, two_rows_of_curves])
def test_equal_figures_give_equal_png_files(draw: Callable[[], Figure]) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    save_png(draw(), first)
    save_png(draw(), second)
    assert first.getvalue() == second.getvalue()
    assert first.getvalue().startswith(b"\x89PNG")
    assert b"Software" not in first.getvalue()
