"""Topics of prompts: how they are written, which are refused, and the division into halves."""

import json

import numpy as np
import pandas as pd
import pytest
from atlased import experiment_of, index_of, topical_rows, write_rows

from neuroscope.errors import ExperimentError, NeuroscopeError, PromptError
from neuroscope.prompts import PromptSet, digest_of
from neuroscope.studies.atlas.experiment import atlas_experiment
from neuroscope.studies.atlas.shards import shards_of
from neuroscope.studies.atlas.topics import TopicIndex

HOSTILE = "'; DROP TABLE topic; --"


@pytest.fixture
def index(tmp_path):
    """Return a function that gives the topics of rows or of prompts with some topics each."""

    def of(topics, **settings):
        rows = [
            row if isinstance(row, dict) else {"text": f"number {number}", "topic": row}
            for number, row in enumerate(topics)
        ]
        return index_of(write_rows(tmp_path / "prompts.jsonl", rows), **settings)

    return of


def topics_of(index):
    """Return the names of the topics of each prompt."""
    return [
        {name for name, own in zip(index.names, row, strict=True) if own} for row in index.members
    ]


def faults(index, topics, **settings):
    """Return the error that refuses some topics."""
    with pytest.raises(NeuroscopeError) as raised:
        index(topics, **settings)
    return raised.value


@pytest.mark.parametrize(
    ("first", "settings", "expected"),
    [
        ("a", {}, {"a"}),
        (" a ", {}, {"a"}),
        (["a", "c", "a"], {}, {"a", "c"}),
        ('["a", "c"]', {}, {"a", "c"}),
        (["a", None, " "], {}, {"a"}),
        ([], {}, set()),
        ("", {}, set()),
        (None, {}, set()),
        ("a;c", {}, {"a;c"}),
        ("a; c;;", {"separator": ";"}, {"a", "c"}),
        (["a;c"], {"separator": ";"}, {"a;c"}),
        ("[a] c", {}, {"[a] c"}),
        pytest.param("[" * 5000, {}, {"[" * 5000}, id="nested"),
        ("[a]; c", {"separator": ";"}, {"[a]", "c"}),
        (HOSTILE, {}, {HOSTILE}),
        (7, {}, {"7"}),
    ],
)
def test_a_prompt_has_one_topic_several_or_none(index, first, settings, expected):
    own = index([first] * 8 + ["b"] * 8 + ["d"] * 8, least_prompts=4, **settings)
    assert set(own.names) == expected | {"b", "d"} and list(own.names) == sorted(own.names)
    assert topics_of(own) == [expected] * 8 + [{"b"}] * 8 + [{"d"}] * 8
    without = [note for note in own.notes if "no topic" in note]
    assert len(without) == (not expected)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_file_format_gives_the_same_topics(tmp_path, kind):
    rows = topical_rows(60, labels=lambda row, rng: [row["topic"], HOSTILE][: rng.integers(1, 3)])
    path = tmp_path / f"prompts.{kind}"
    table = pd.DataFrame(rows).rename(columns={"text": "sentence"})
    if kind == "csv":
        table.assign(labels=table["labels"].map(json.dumps)).to_csv(path, index=False)
    elif kind == "parquet":
        table.to_parquet(path)
    else:
        write_rows(path, table.to_dict("records"))
    source = {"file": str(path), "text_column": "sentence"}
    experiment = experiment_of(source, topic="labels", least_prompts=4)
    own = TopicIndex.of(experiment)
    assert topics_of(own) == [set(row["labels"]) for row in rows]
    assert own.names[0] == HOSTILE


def test_an_index_is_stored_and_read_without_loss(index, tmp_path):
    rows = topical_rows(80, source=lambda row, rng: str(rng.choice(["é", "b"])))
    own = index(
        [*rows, {"text": "nothing ?"}, {"text": "a 1 B", "topic": HOSTILE}],
        leave_out=True,
        least_prompts=4,
    )
    own.save(tmp_path / "topics.npz")
    read = TopicIndex.load(tmp_path / "topics.npz")
    for name, value in vars(own).items():
        if name == "numbers":
            assert value.keys() == getattr(read, name).keys()
            for key, numbers in value.items():
                np.testing.assert_array_equal(read.numbers[key], numbers)
        else:
            np.testing.assert_array_equal(getattr(read, name), value)
    assert len(own.notes) == 2 and read.notes == own.notes
    assert [own.numbers[name][-1] for name in ("question_mark", "digits", "upper_case")] == [
        0,
        1 / 5,
        1 / 2,
    ]
    assert own.numbers["question_mark"][-2] == 1


@pytest.mark.parametrize("key", ["topic", "source"])
def test_a_missing_column_is_named_and_the_columns_there_are_offered(index, key):
    rows = topical_rows(40, kind=lambda row, rng: "x")
    error = faults(index, rows, **{key: "label"})
    assert isinstance(error, ExperimentError)
    assert "'label'" in str(error) and "kind, topic" in str(error)
    assert [option.name for option in error.options] == [key]


def test_prompts_without_labels_are_refused(tmp_path):
    with pytest.raises(ExperimentError, match=r"no column but their texts.*add a column of topics"):
        index_of(write_rows(tmp_path / "prompts.jsonl", [{"text": "a"}, {"text": "b"}]))


def test_fewer_than_two_topics_are_refused(index):
    assert "'a'" in str(faults(index, ["a"] * 40))
    left_out = faults(index, ["a"] * 40 + ["b"] * 3, leave_out=True)
    assert "two topics" in str(left_out)


def test_small_topics_are_all_named_and_left_out_on_request_only(index):
    topics = ["a"] * 30 + ["b"] * 30 + ["rare"] * 5 + [HOSTILE] * 19
    error = faults(index, topics)
    assert f"'{HOSTILE}' (19)" in str(error) and "'rare' (5)" in str(error)
    assert [option.value for option in error.options] == [True, 5]
    assert len(faults(index, [*topics, "single"]).options) == 1  # no setting accepts one prompt
    own = index(topics, leave_out=True)
    assert own.names == ("a", "b") and not own.members[60:].any()
    assert all(any(name in note for note in own.notes) for name in ("'rare'", HOSTILE))
    assert len(index(topics, least_prompts=19, leave_out=True).names) == 3


def test_a_topic_that_every_prompt_has_is_refused(index):
    assert "'a'" in str(faults(index, [["a", "b"]] * 30 + [["a"]] * 30))


def test_a_broken_line_is_reported_with_file_and_line(tmp_path):
    path = write_rows(tmp_path / "prompts.jsonl", topical_rows(5))
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(PromptError, match=r"prompts\.jsonl, line 6"):
        index_of(path)


def test_halves_are_about_equal_random_and_repeatable(index):
    rows = topical_rows(400)
    own, other = index(rows), index(rows, seed=1)
    assert own.split == "prompt" and 160 < own.heldout.sum() < 240
    np.testing.assert_array_equal(index(rows).heldout, own.heldout)
    assert 120 < (own.heldout != other.heldout).sum() < 280


def test_equal_texts_are_in_one_half(index):
    rows = topical_rows(60)
    own = index([*rows, *reversed(rows), *[row | {"topic": "twin"} for row in rows]])
    np.testing.assert_array_equal(own.heldout[:60], own.heldout[60:120][::-1])
    np.testing.assert_array_equal(own.heldout[:60], own.heldout[120:])


def sourced(*sources):
    """Return 400 prompts from random sources."""
    return topical_rows(400, source=lambda row, rng: str(rng.choice(sources)))


def test_halves_have_sources_of_their_own_if_every_topic_has_prompts_in_both(index):
    own = index(sourced("a", "b", "c", "d"))
    assert own.split == "source"
    assert not set(own.sources[own.heldout]) & set(own.sources[~own.heldout])
    assert min(own.members[half].sum(axis=0).min() for half in (own.heldout, ~own.heldout)) >= 10
    assert index(sourced("a", "b", "c", "d"), split="prompt").split == "prompt"
    assert index(sourced("a")).split == "prompt"
    assert index(sourced(*map(str, range(1000)))).split == "source"


def test_halves_share_sources_if_one_would_have_few_prompts_of_a_topic(index):
    rows = topical_rows(1000)
    for number, row in enumerate(rows):
        row["source"] = "small" if number < 160 else "large"
    own = index(rows)
    assert own.split == "prompt" and 450 < own.heldout.sum() < 550
    assert index(rows, split="source").heldout.sum() in (160, 840)
    sizes = own.members.sum(axis=0)
    several = [
        row | {"source": "small" if number % 5 < 2 else "large"} for number, row in enumerate(rows)
    ]
    balanced = index(several)
    smaller = np.minimum(
        *(balanced.members[h].sum(axis=0) for h in (balanced.heldout, ~balanced.heldout))
    )
    assert balanced.split == "source" and (smaller >= sizes / 3).all()


def test_halves_share_sources_if_a_topic_has_one_of_its_own(index):
    rows = [row | {"source": row["topic"]} for row in topical_rows(200)]
    assert index(rows).split == "prompt"
    error = faults(index, rows, split="source")
    assert [(option.name, option.value) for option in error.options] == [("split", "prompt")]


def test_a_column_of_sources_may_have_any_name(index):
    rows = topical_rows(400, site=lambda row, rng: str(rng.choice(["a", "b"])))
    assert index(rows).split == "prompt"
    own = index(rows, source="site")
    assert own.split == "source" and set(own.sources) == {"a", "b"}


def test_pilot_and_samples_are_random_prompts_of_their_half(index):
    own = index(topical_rows(400))
    pilot = own.pilot(50)
    assert len(set(pilot)) == 50 and not own.heldout[pilot].any()
    assert own.heldout[own.sample(50, heldout=True)].all()
    assert 10 < own.heldout[own.sample(50)].sum() < 40
    assert own.sample(1000).tolist() == list(range(400))
    assert len(own.pilot(1000)) == (~own.heldout).sum()


def test_a_sample_of_topics_has_prompts_of_topics_that_the_random_sample_lacks(index):
    topics = [["a"], ["a", "b"], ["b"], []] * 1000
    plain = index(topics).sample(500, heldout=True)
    heldout = index(topics).heldout
    rare = np.flatnonzero(heldout & ~np.isin(np.arange(4000), plain))[::7][:150]
    for number in [*rare, *np.flatnonzero(~heldout)[:20]]:
        topics[number] = ["rare", *topics[number]]
    own = index(topics)
    chosen = own.sample_topics(500, 100)
    uniform = np.isin(chosen.indices, plain)
    members = own.members[chosen.indices]
    assert len(chosen.indices) == 600 and (np.diff(chosen.indices) > 0).all()
    assert not members[uniform, 2].any()
    assert chosen.inside[:, 2].sum() == 100 and own.heldout[chosen.indices].all()
    np.testing.assert_array_equal(chosen.inside[:, :2], members[:, :2] & uniform[:, None])
    np.testing.assert_array_equal(chosen.outside, ~members & uniform[:, None])
    everything = own.sample_topics(4000, 100)
    np.testing.assert_array_equal(everything.inside, own.members[own.heldout])
    np.testing.assert_array_equal(everything.outside, ~own.members[own.heldout])


@pytest.mark.parametrize(("count", "sizes"), [(1, [7]), (3, [2, 2, 3]), (9, [1] * 7)])
def test_shards_are_consecutive_prompts(count, sizes):
    prompts = PromptSet.of([f"number {number}" for number in range(7)])
    shards = shards_of(prompts, count)
    assert [len(shard) for shard in shards] == sizes
    assert [shard.first for shard in shards] == [sum(sizes[:index]) for index in range(len(sizes))]
    assert [prompt for shard in shards for prompt in shard] == list(prompts)
    assert sum(shard.characters for shard in shards) == prompts.characters
    assert all(shard.digest == digest_of(shard) for shard in shards)


def test_prompts_are_put_into_a_template(tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [{"text": f"word {number} {{}}", "topic": "ab"[number % 2]} for number in range(60)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    experiment = atlas_experiment("", ["minilm"], {"file": str(file)}, prompt_template="Say {}!")
    prompts = experiment.prompt_set
    texts = [prompt.text for prompt in prompts]
    assert texts == [f"Say {row['text']}!" for row in rows] and len(prompts) == 60
    assert prompts.characters == sum(map(len, texts))
    assert prompts.digest == digest_of(prompts) != experiment.prompts.prompts().digest
    assert experiment.topic_index.names == ("a", "b")


def test_a_template_changes_neither_the_surface_nor_the_halves(tmp_path):
    rows = [row | {"text": f"{row['text']} A1"} for row in topical_rows(200)]
    path = write_rows(tmp_path / "prompts.jsonl", rows)
    plain, filled = (
        index_of(path, prompt_template=template) for template in ("", "WHICH of 100 topics? {}")
    )
    assert not filled.numbers["question_mark"].any()
    np.testing.assert_array_equal(filled.numbers["digits"], [1 / len(r["text"]) for r in rows])
    assert (filled.numbers["upper_case"] < 0.1).all()
    for name, values in plain.numbers.items():
        np.testing.assert_array_equal(filled.numbers[name], values)
    np.testing.assert_array_equal(filled.heldout, plain.heldout)


@pytest.mark.parametrize("template", ["no gap", "{} and {}"])
def test_a_template_without_one_gap_is_refused(template):
    with pytest.raises(ExperimentError, match="exactly once"):
        atlas_experiment("x", ["minilm"], {"texts": ["a", "b"]}, prompt_template=template)
