"""Sanity checks of an atlas: labels without meaning, halved and doubled, and planted confounds."""

import numpy as np
import pytest
from atlased import FILLERS, WORDS, AtlasSteps, query, topical_rows, write_rows

from neuroscope.extraction.models import load_model

SINGLE_WORDS = {word: (word,) for words in WORDS.values() for word in words}
"""Eight topics of one word each."""


@pytest.fixture
def entries(family_folder, tmp_path):
    """Return a function that builds an atlas of rows and returns its topics and its entries."""
    model = load_model(str(family_folder("bert")))

    def of(rows, **settings):
        path = AtlasSteps(model, write_rows(tmp_path / "prompts.jsonl", rows), **settings).build()
        topics = query(path, "SELECT * FROM topic").set_index("name")
        joined = query(path, "SELECT s.*, t.name FROM selectivity s JOIN topic t USING (topic)")
        return topics, joined

    return of


def relabelled(rows, label):
    return [row | {"topic": label(row["topic"])} for row in rows]


def selective_in(entries, reference):
    """Return the rows of the entries that are selective in a reference."""
    keys = reference[reference["selective"]][["neuron", "name"]]
    return keys.merge(entries, on=["neuron", "name"])


def test_shuffled_labels_give_no_selective_entry(entries):
    rows = topical_rows(600)
    for seed in range(3):
        shuffled = iter(np.random.default_rng(seed).permutation([row["topic"] for row in rows]))
        topics, _ = entries(relabelled(rows, lambda own, labels=shuffled: next(labels)))
        assert not topics[["selective", "confounded"]].any(axis=None)
    assert entries(rows)[0]["selective"].min() > 0


def test_halved_and_doubled_labels_lower_the_stored_scores(entries):
    """The checks of arXiv 2506.05774: missing labels, and extra ones."""
    rng, rows = np.random.default_rng(0), topical_rows(800, words=SINGLE_WORDS)

    def doubled(own):
        others = [name for name in SINGLE_WORDS if name != own]
        return [own, *(name for name in others if rng.random() < 1 / len(others))]

    _, true = entries(rows)
    scores = selective_in(true, true)
    assert len(scores) > 20
    for label in (lambda own: own if rng.random() < 0.5 else "", doubled):
        _, changed = entries(relabelled(rows, label))
        own = selective_in(changed, true)
        assert len(own) == len(scores)
        assert own["ap_heldout"].mean() < scores["ap_heldout"].mean() - 0.05
        assert own["r"].abs().mean() < scores["r"].abs().mean() - 0.1
        assert own["selective"].sum() < len(scores)


def length_rows(short, long, count=600, **columns):
    """Return prompts of the same words on two topics, which differ in their range of lengths."""
    rng = np.random.default_rng(0)
    ranges = {"short": short, "long": long}
    topics = [str(rng.choice(list(ranges))) for _ in range(count)]
    return [
        {"text": " ".join(rng.choice(FILLERS, rng.integers(*ranges[topic]))), "topic": topic}
        for topic in topics
    ]


@pytest.mark.parametrize(
    ("short", "long", "separable"), [((3, 10), (7, 16), True), ((2, 8), (6, 20), False)]
)
def test_neurons_that_read_only_the_length_are_all_confounded(entries, short, long, separable):
    topics, table = entries(length_rows(short, long), pool="max")
    assert (topics["separable"] == separable).all()
    assert (topics["reason"] == ("" if separable else "length")).all()
    assert topics["confounded"].sum() > 2 and not topics["selective"].any()
    np.testing.assert_array_equal(table["confounded"], table["selective"])


def test_a_topic_is_not_separable_from_a_source_of_its_own(entries):
    rows = topical_rows(600)
    before, _ = entries(rows)
    topics, table = entries([row | {"source": row["topic"]} for row in rows])
    assert not topics["separable"].any() and (topics["reason"] == "source").all()
    assert topics["confounded"].tolist() == (before["selective"] + before["confounded"]).tolist()
    np.testing.assert_array_equal(table["confounded"], table["selective"])


def test_topics_that_cross_their_sources_stay_separable(entries):
    rows = topical_rows(800, source=lambda row, rng: str(rng.choice(["a", "b", "c", "d"])))
    for split in ("source", "prompt"):
        topics, table = entries(rows, split=split)
        assert topics["separable"].all()
        assert table["confounded"].sum() < 0.2 * table["selective"].sum()
        difference = (table["partial_auroc"] - table["auroc_heldout"]).abs()
        assert difference.mean() < 0.02


def test_a_topic_of_questions_is_not_separable_from_its_punctuation(entries):
    rows = topical_rows(600)
    asked = [
        row | {"text": f"{row['text']} {'?' if row['topic'] == 'people' else '.'}"} for row in rows
    ]
    topics, table = entries(asked)
    assert topics["reason"].to_dict()["people"] == "question mark"
    assert topics["separable"].drop("people").all()
    own = table[table["name"] == "people"]
    assert own["selective"].any() and (own["confounded"] == own["selective"]).all()
