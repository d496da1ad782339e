"""Explanations of drift, on planted changes: positions, words, prompts, and sentences."""

import json

import numpy as np
import pytest
import torch
from drifting import drift
from html_page import HtmlPage
from layered import labelled_prompts
from models import WORDS, copy_with_weights, make_model

from neuroscope.extraction.behaviour import TokenPredictions
from neuroscope.extraction.pair_changes import Behaviour
from neuroscope.reporting.tracking import Tracker
from neuroscope.studies.drift.explanation import (
    MOST_TOPICS,
    TopicDrift,
    preferred_tokens,
    tokens_by_topic,
    topic_drift,
)
from neuroscope.studies.drift.headline import explanation_sentences, times
from neuroscope.studies.drift.result import Explanation, Topics
from neuroscope.tokens import Vocabulary


@pytest.fixture
def prompts(tmp_path):
    """Return a file of 72 prompts on three topics; one of the topics looks like HTML."""
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"text": prompt.text, "topic": prompt.labels["topic"].replace("royals", "<u>royals</u>")}
        for prompt in labelled_prompts()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def changed(base, name, change):
    """Copy a model whose weight of a name is changed in place."""

    def apply(weights):
        (key,) = (key for key in weights if key.endswith(name))
        change(weights[key])
        return weights

    return copy_with_weights(base, base.parent / "candidate", apply)


def test_a_changed_position_is_found(tmp_path, prompts):
    base = make_model("bert", tmp_path / "base", layers=2)

    def change(positions):
        positions[3] += torch.randn(positions.shape[1], generator=torch.manual_seed(0))

    result = drift(base, changed(base, "position_embeddings.weight", change), prompts)
    positions = result.explanation.positions
    assert positions.buckets == ("1", "2", "3", "4-7", "8-15")  # [CLS] at 0 is no content token
    assert positions.sites == ("resid_post.0", "resid_post.1")
    at, others = positions.buckets.index("3"), [0, 1, 3]
    assert (positions.change[0, :, at] > 1.8 * positions.change[0][:, others].max()).all()
    assert positions.divergence[-1, at] > 2 * positions.divergence[-1, others].max()
    assert positions.tokens[:-1].sum(axis=0).tolist() == positions.tokens[-1].tolist()
    document = result.to_dict()["positions"]
    assert np.shape(document["change"]) == (2, 4, 5) and len(document["topics"]) == 3
    assert "None of the layers" in result.summary
    assert result.explanation.topic_tokens == () and "words" not in result.summary


def test_streamed_models_are_explained_by_their_outputs(tmp_path, prompts):
    base = make_model("bert", tmp_path / "base", layers=2)
    candidate = changed(base, "position_embeddings.weight", lambda weight: weight[3].mul_(-2))
    resident = drift(base, candidate, prompts).explanation
    streamed = drift(base, candidate, prompts, memory="stream").explanation
    assert streamed.positions.sites == () and streamed.patching is None
    np.testing.assert_allclose(
        streamed.positions.divergence, resident.positions.divergence, rtol=1e-3, atol=1e-6
    )
    assert [row.id for row in streamed.prompts] == [row.id for row in resident.prompts]


def test_a_word_that_is_made_probable_leads_on_every_topic(tmp_path, prompts, database):
    base = make_model("bert", tmp_path / "base", head=True)

    def change(bias):
        bias[[4 + WORDS.index(word) for word in ("king", "queen")]] += torch.tensor([4.0, -9.0])

    tracker = Tracker.open()
    result = drift(base, changed(base, "predictions.bias", change), prompts, tracker)
    explanation = result.explanation
    words = explanation.tokens_up[0].token, explanation.tokens_down[0].token
    assert words == ("king", "queen")
    for topic in explanation.topic_tokens:
        assert (topic.up[0].token, topic.down[0].token) == words
        assert topic.up[0].ratio > 1 > topic.up[0].null
    order = [topic.topic for topic in explanation.topic_tokens]
    assert order == [row.topic for row in explanation.topics.rows]
    assert result.to_dict()["tokens_by_topic"][0]["up"][0]["text"] == "king"
    assert "1.5 times as often: king" in result.summary
    page = HtmlPage(tracker.artifact(result.run_id, "report.html").read_text())
    assert page.count("u") == 0 and "<u>royals</u>" in page.cells
    assert "king" in page.cells
    assert "s9" in page.attributes("class")


def test_every_token_of_a_prompt_has_its_divergence(tmp_path, prompts):
    base = make_model("llama", tmp_path / "base", head=True)
    result = drift(
        base, changed(base, "1.mlp.down_proj.weight", lambda weight: weight.mul_(1.5)), prompts
    )
    rows = result.explanation.prompts
    assert [row.divergence for row in rows] == sorted(row.divergence for row in rows)[::-1]
    for row in rows:
        assert len(row.tokens) == len(row.texts) == len(row.values) == row.length
        values = np.array(row.values)
        assert np.isnan(values[0]) and row.texts[0] == ""  # <s> is given
        assert values[1:].mean() == pytest.approx(row.divergence, rel=1e-3)
        assert row.texts[1 + values[1:].argmax()].strip() == row.token
    text = rows[0].text.replace("<unk>", " ").replace(" .", ".")
    assert "".join(rows[0].texts).split() == text.split()


def test_many_topics_are_cut(tmp_path):
    base = make_model("llama", tmp_path / "base", head=True)
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"text": p.text, "topic": f"t{n % 36}"} for n, p in enumerate(labelled_prompts())]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = drift(base, changed(base, "lm_head.weight", lambda weight: weight.mul_(1.5)), prompts)
    document = result.to_dict()
    assert len(document["topics"]) == 36
    assert len(document["tokens_by_topic"]) == len(document["topics_by_layer"]) == MOST_TOPICS
    assert np.shape(document["positions"]["change"])[1] == MOST_TOPICS + 1


def test_expected_tokens_are_compared_with_the_bounds_of_their_topic():
    vocabulary = Vocabulary(("a", "b", "c"), frozenset(), None)
    base = np.array([[10, 10, 80], [30, 30, 40], [0, 0, 100.0]])  # the last without a topic
    candidate = np.array([[20, 10, 70], [30, 45, 25], [0, 0, 100.0]])
    bounds = np.zeros((4, 5))  # of a vocabulary that was larger
    bounds[1, 2] = 9
    order = ["news", "art"]
    rows = tokens_by_topic((base, candidate), ["art", "news"], order, vocabulary, bounds)
    assert [row.topic for row in rows] == order
    assert [[token.token for token in row.up] for row in rows] == [["b"], ["a"]]
    assert [[token.token for token in row.down] for row in rows] == [[], ["c"]]
    up, down = preferred_tokens(np.ones(5) / 5, np.array([0.3, 0, 0, 0, 0.7]), vocabulary)
    assert [token.token for token in (*up, *down)] == ["a", "b", "c"]  # no text for the others


def behaviour(divergence, gain):
    """Return the behaviour at two positions per prompt."""
    count = len(divergence)
    double = np.repeat(np.asarray(divergence, dtype=float), 2)
    gains = np.repeat(np.asarray(gain, dtype=float), 2)
    predictions = TokenPredictions(double, gains > 0, np.zeros(2 * count), gains)
    positions = np.tile([1, 2], count)
    return Behaviour(np.repeat(np.arange(count), 2), positions, double, predictions)


def sentences(rows):
    decision = type("Decision", (), {"statistic": 0.1, "null": 0.0})
    explanation = Explanation(topics=Topics(tuple(rows)))
    return " ".join(explanation_sentences([], decision, [], None, [], explanation))


def test_the_topic_that_stands_out_is_named_with_its_ratio():
    topics = ["Sports"] * 3 + ["World"] * 3 + ["Art"] * 3
    rows = topic_drift(
        behaviour([6, 6.1, 5.9, 1, 1.1, 0.9, 1, 1, 1], [0.5, 0.6, 0.4, -1, -1.1, -0.9, -2, -2, -2]),
        topics,
    )
    assert [row.topic for row in rows] == ["Sports", "World", "Art"]
    assert rows[0].divergence_error == pytest.approx(0.1 / np.sqrt(3))
    text = sentences(rows)
    assert "most on Sports (6 nats per token): 6 times the mean of the other topics (1)" in text
    assert "Texts on Sports have become more probable (+0.50 nats per token)" in text
    assert "2 other topics less (-2.00 to -1.00): it was probably trained" in text


def test_no_topic_is_named_that_does_not_stand_out():
    noisy = [3, 0.1, 0.2, 1, 1.1, 0.9]
    assert sentences(topic_drift(behaviour(noisy, noisy), ["a"] * 3 + ["b"] * 3)) == ""
    both = [TopicDrift(topic, 9, 1.0, 0.01, 0.3, 0.01) for topic in "ab"]
    assert sentences(both).startswith("Texts on all topics have become more probable (+0.30 to")


def test_ratios_in_words():
    assert [times(ratio) for ratio in (0.012, 1.05, 6.2, 140.3)] == [
        "0.012 times",
        "about as large as",
        "6.2 times",
        "140 times",
    ]
