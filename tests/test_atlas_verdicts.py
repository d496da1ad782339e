"""Verdicts of an atlas from planted sources, topics and counts, without a model."""

import numpy as np
import pytest
from atlased import index_of, topical_rows, write_rows

from neuroscope.studies.atlas.measures import Confounds


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
