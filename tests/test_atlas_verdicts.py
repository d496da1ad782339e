"""Verdicts of an atlas where topics overlap, or have sources of their own."""

import numpy as np
import pandas as pd
import pytest
from atlased import AtlasSteps, index_of, query, topical_rows, write_rows

from neuroscope.extraction.models import load_model
from neuroscope.studies.atlas import directions
from neuroscope.studies.atlas.measures import Confounds, rivals_of


def confounds_of(path, rows, **settings):
    """Return the topics of rows, and what their covariates reach."""
    topics = index_of(write_rows(path / "prompts.jsonl", rows), **settings)
    return topics, Confounds.of(topics, np.zeros(len(topics), dtype=np.int64))


@pytest.mark.parametrize("split", ["source", "prompt"])
def test_a_topic_with_several_sources_of_its_own_is_not_separable(tmp_path, split):
    """With a split by source, the sources of the reported half are all new to the other half."""

    def source(row, rng):
        kind = "zoo" if row["topic"] == "animals" else "news"
        return f"{kind}-{rng.choice(['train', 'test'])}"

    topics, confounds = confounds_of(tmp_path, topical_rows(800, source=source), split=split)
    assert topics.split == split and topics.names[0] == "animals"
    assert confounds.areas["source"][0] == 1 and confounds.reasons == ["source", "", "", ""]
    assert confounds.separable.tolist() == [False, True, True, True]
    half = topics.random_half
    inside, outside = topics.members[half, 1], ~topics.members[half, 1]
    zoo = np.char.startswith(topics.sources[half], "zoo")
    # every prompt of the topic is above those from the zoo, and about equal to the others
    expected = 0.5 + zoo[outside].mean() / 2
    assert inside.any() and confounds.areas["source"][1] == pytest.approx(expected, abs=0.06)


def test_sources_that_topics_share_tell_nothing(tmp_path):
    rows = topical_rows(2000, source=lambda row, rng: f"site {rng.integers(8)}")
    _, confounds = confounds_of(tmp_path, rows, split="source")
    np.testing.assert_allclose(confounds.areas["source"], 0.5, atol=0.06)


def nested(row, rng):
    """Return the topic of a row, and `beings` with those of animals and people."""
    own = row["topic"]
    return [own, "beings"] if own in ("animals", "people") else [own]


def test_topics_that_share_more_than_5_percent_of_their_prompts_are_no_rivals(tmp_path):
    rows = topical_rows(2000, topic=nested)
    for number, row in enumerate(rows):  # 1 in 10 royals is a trade as well, 1 in 30 an animal
        if row["topic"] == ["royals"]:
            row["topic"] += ["trades"] * (number % 10 == 0) + ["animals"] * (number % 30 == 1)
    topics = index_of(write_rows(tmp_path / "prompts.jsonl", rows))
    assert topics.names == ("animals", "beings", "people", "royals", "trades")
    expected = [
        [False, False, True, True, True],
        [False, False, False, True, True],
        [True, False, False, True, True],
        [True, True, True, False, False],
        [True, True, True, False, False],
    ]
    assert rivals_of(topics).tolist() == expected


@pytest.fixture
def built(family_folder, tmp_path):
    """Return a function that builds an atlas of prompts with the topics that it gives each."""

    def of(topic):
        rows = topical_rows(600, topic=topic)
        model = load_model(str(family_folder("bert")))
        path = AtlasSteps(model, write_rows(tmp_path / "prompts.jsonl", rows)).build()
        entries = query(
            path,
            "SELECT s.*, t.name, o.name AS rival_name FROM selectivity s"
            " JOIN topic t USING (topic) LEFT JOIN topic o ON o.topic = s.rival",
        )
        return entries, query(path, "SELECT * FROM neuron"), query(path, "SELECT * FROM direction")

    return of


def test_topics_that_overlap_can_be_selective(built):
    entries, neurons, _ = built(nested)
    rivals = entries.groupby("name")["rival_name"].agg(set)
    assert rivals["beings"] == {"royals", "trades"}
    assert rivals["animals"] == {"people", "royals", "trades"}
    assert "beings" not in rivals["people"]
    assert entries.groupby("name")["selective"].sum()[["animals", "people", "beings"]].min() > 0
    assert entries["one_vs_one"].notna().all() and neurons["eta_squared"].isna().all()


def test_a_topic_without_a_rival_is_judged_by_all_other_conditions(built):
    def topic(row, rng):
        return [name for name in nested(row, rng) if name in ("animals", "beings")]

    entries, *_ = built(topic)
    assert entries["rival"].isna().all() and entries["one_vs_one"].isna().all()
    assert set(entries["name"][entries["selective"]]) == {"animals", "beings"}
    own = entries[entries["selective"]]
    area = np.where(own["polarity"] > 0, own["auroc_heldout"], 1 - own["auroc_heldout"])
    assert (area >= 0.75).all() and (own["q"] < 0.05).all()


def test_directions_of_rare_topics_are_measured_though_the_random_sample_lacks_them(
    built, monkeypatch, tmp_path
):
    _, _, full = built(lambda row, rng: row["topic"])
    monkeypatch.setattr(directions, "_MOST_PROMPTS", 3)  # of four topics
    monkeypatch.setattr(directions, "_FEWEST_PROMPTS", 60)
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "again"))
    _, _, sampled = built(lambda row, rng: row["topic"])
    both = pd.merge(full, sampled, on=["topic", "layer"])
    assert len(both) == 8 and both["auroc_heldout_x"].min() > 0.8
    np.testing.assert_allclose(both["auroc_heldout_y"], both["auroc_heldout_x"], atol=0.06)
