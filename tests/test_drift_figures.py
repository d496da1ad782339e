"""Figures of drift: what is drawn of a result, and on which axes."""

from dataclasses import replace

import numpy as np
import pytest
from figures import image_of, legend_names, text_inside, text_outside

from neuroscope.studies.drift.agreement import Decision, SiteAgreement
from neuroscope.studies.drift.explanation import TopicDrift
from neuroscope.studies.drift.figures import drift_figures
from neuroscope.studies.drift.positions import Positions
from neuroscope.studies.drift.result import DriftResult, Explanation, Patching, Topics

DECISION = Decision("drifted", 0.2, 0.19, 0.21, 0.05, 0.05, 0.05, 19, 3e-5)


def site(layer, distance, local, null=3e-5):
    return SiteAgreement("mlp_act", layer, layer, 0.9, 0.8, distance, local=local, null_high=null)


@pytest.fixture
def result():
    rows = [TopicDrift(topic, 9, 0.1, 0.01, 0.2, 0.01) for topic in ("b", "a")]
    explanation = Explanation(
        topics=Topics((*rows, rows[0]), ("b", "a"), np.array([[0.1, 0.2], [0.3, 0.4]])),
        positions=Positions(
            buckets=("1", "2-3", "4-7"),
            topics=("b", "a"),
            sites=("resid_post.0", "resid_post.1"),
            change=np.arange(18.0).reshape(2, 3, 3),
            tokens=np.ones((3, 3), dtype=np.int64),
            divergence=np.ones((3, 3)),
        ),
        patching=Patching(
            ("resid_pre.0", "resid_post.0", "resid_post.1"), (0.4, 0.5, 1.0), (0, 0, 0), 64
        ),
    )
    return DriftResult(
        base="/models/news-v1",
        model="/models/news-v2",
        prompts=300,
        site="mlp_act",
        basis="neurons",
        decision=DECISION,
        differences=(),
        parts=(),
        sites=(site(0, 0.1, 0.02), site(1, 0.2, 0.0)),
        explanation=explanation,
    )


def figures_of(result):
    return {figure.name: figure.figure for figure in drift_figures(result)}


def test_distances_are_drawn_on_a_linear_and_a_logarithmic_axis(result):
    figure = figures_of(result)["drift_by_layer.png"]
    linear, logarithmic = figure.axes
    assert (linear.get_yscale(), logarithmic.get_yscale()) == ("linear", "symlog")
    assert [line.get_ydata().tolist() for line in linear.lines[:2]] == [[0.1, 0.2], [0.02, 0.0]]
    assert text_inside(figure) == []
    assert legend_names(figure) == ["propagated", "local", "margin 0.05", "benign replicates"]
    assert "news-v2 against news-v1; 300 prompts" in text_outside(figure)


def test_distances_of_like_size_need_one_axis(result):
    near = replace(result, sites=(site(0, 0.1, 0.02, 0.01), site(1, 0.2, 0.02, 0.01)))
    (axes,) = figures_of(near)["drift_by_layer.png"].axes
    assert axes.get_yscale() == "linear"


def test_topics_and_positions_are_heat_maps(result):
    figures = figures_of(result)
    assert image_of(figures["topics_by_layer.png"]).tolist() == [[0.1, 0.2], [0.3, 0.4]]
    assert "the first 2 of 3 topics" in text_outside(figures["topics_by_layer.png"])
    cells = image_of(figures["positions_by_layer.png"])
    assert cells.tolist() == [[6, 7, 8], [15, 16, 17]]  # all prompts
    names = [
        text.get_text() for text in figures["positions_by_layer.png"].axes[0].get_xticklabels()
    ]
    assert names == ["1", "2-3", "4-7"]


def test_the_first_jump_of_patching_is_from_the_embeddings(result):
    figure = figures_of(result)["patching.png"]
    assert "largest jump: +0.50 at layer 1" in legend_names(figure)
    assert "embeddings alone return 40%" in text_outside(figure)


def test_without_matching_neurons_only_representations_are_drawn(result):
    other = replace(result, basis="representations", explanation=Explanation())
    assert [*figures_of(other)] == ["geometry_by_layer.png"]
    assert figures_of(replace(result, sites=())) == {}
