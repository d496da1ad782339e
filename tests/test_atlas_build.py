"""The database that an atlas writes: its rows against extracted activations, and building again."""

import numpy as np
import pandas as pd
import pytest
from atlased import (
    AtlasSteps,
    counted_passes,
    killed_at_pass,
    query,
    topical_rows,
    write_rows,
)
from models import copy_with_weights
from stored import Killed

from neuroscope.extraction.models import load_model
from neuroscope.storage.atlas_schema import ORDER, TABLES

HOSTILE = "'; DROP TABLE topic; --"
PROMPTS, NEURONS, TOPICS, EXAMPLES = 300, 96, 5, 4


def several(row, rng):
    """Return the topics of a prompt: its own, a hostile one too, or none."""
    return [[row["topic"]], [row["topic"], HOSTILE], []][rng.choice(3, p=[0.6, 0.3, 0.1])]


def source(row, rng):
    return [None, "news", "mail"][rng.integers(3)]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Return a file of prompts, of which some have a source, two topics, or none."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    return write_rows(path, topical_rows(PROMPTS, topic=several, source=source))


@pytest.fixture
def steps(family_folder, prompts):
    """Return a function that gives the steps of an atlas of the prompts."""
    model = load_model(str(family_folder("bert")))

    def of(**settings):
        return AtlasSteps(model, prompts, examples=EXAMPLES, **settings)

    return of


@pytest.fixture(scope="module", params=["bert", "llama", "gpt2"])
def built(request, family_folder, prompts, tmp_path_factory):
    """Return the steps of an atlas, and its database, which no test changes."""
    head = request.param == "llama"
    model = load_model(str(family_folder(request.param, head=head)), head=head)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROSCOPE_HOME", str(tmp_path_factory.mktemp("home")))
        steps = AtlasSteps(model, prompts, examples=EXAMPLES, split="prompt")
        return steps, steps.build()


def tables_of(path):
    """Return every table, sorted."""
    return {
        name: query(path, f"SELECT * FROM {name} ORDER BY {', '.join(keys)}")
        for name, keys in ORDER.items()
    }


def assert_same_tables(path, expected):
    """Compare all but the settings and the time of creation."""
    own, other = tables_of(path), tables_of(expected)
    own["model"], other["model"] = (
        tables["model"].drop(columns=["created", "experiment"]) for tables in (own, other)
    )
    for name, table in own.items():
        pd.testing.assert_frame_equal(table, other[name], check_exact=False, rtol=1e-5)


def test_every_table_has_its_rows(built):
    steps, path = built
    counts = {name: len(table) for name, table in tables_of(path).items()}
    examples = 2 * EXAMPLES + 5
    assert counts == {
        "model": 1,
        "prompt": PROMPTS,
        "topic": TOPICS,
        "covariate": 5 * TOPICS,
        "neuron": NEURONS,
        "selectivity": NEURONS * TOPICS,
        "example": NEURONS * examples,
        "direction": 2 * TOPICS,
        "token": len(steps.model.vocabulary.texts),
    }


def test_only_columns_whose_meaning_says_so_have_nulls(built):
    _, path = built
    for name, table in tables_of(path).items():
        for column in TABLES[name]:
            missing = table[column.name].isna()
            if "NULL" not in column.meaning and not column.name.startswith("effect"):
                assert not missing.any(), (name, column.name)
    entries = tables_of(path)["selectivity"]
    assert (entries["counts"].isna() == ~entries["selective"]).all()
    assert entries["verified"].isna().all() and entries["effect"].isna().all()


def test_the_model_and_its_prompts_are_described(built):
    steps, path = built
    model = query(path, "SELECT * FROM model").iloc[0]
    assert model["name"] == steps.model.name
    assert model["fingerprint"] == steps.model.checkpoint.fingerprint
    assert (model["component"], model["pool"], model["split"]) == ("mlp_act", "mean", "prompt")
    assert model["prompts"] == model["prompts_selection"] + model["prompts_heldout"] == PROMPTS
    assert any("no topic" in note for note in model["notes"])
    table = query(path, "SELECT * FROM prompt ORDER BY prompt")
    expected, acts = list(steps.experiment.prompt_set), steps.extract()
    assert table["text"].tolist() == [prompt.text for prompt in expected]
    assert table["id"].tolist() == [prompt.id for prompt in expected]
    sources = [prompt.labels.get("source", "") for prompt in expected]
    assert table["source"].fillna("").tolist() == sources and "" in sources
    assert table["tokens"].tolist() == acts.tokens.kept_counts("content").tolist()
    assert table["heldout"].tolist() == steps.topics.heldout.tolist()


def test_examples_are_the_extracted_values_with_the_token_at_the_peak(built):
    steps, path = built
    acts = steps.extract()
    values = np.concatenate([acts[site] for site in steps.spec.sites], axis=1)
    table = query(path, "SELECT * FROM example ORDER BY neuron, kind, rank")
    np.testing.assert_array_equal(table["value"], values[table["prompt"], table["neuron"]])
    vocabulary, tokens = steps.model.vocabulary, acts.tokens
    ids = tokens.ids[tokens.starts[table["prompt"]] + table["position"]]
    assert table["token"].tolist() == [vocabulary.display(id) for id in ids]
    ranked = values.T.copy()
    ranked.sort(axis=1)
    for kind, expected in (
        ("strongest", ranked[:, : -EXAMPLES - 1 : -1]),
        ("weakest", ranked[:, :EXAMPLES]),
    ):
        own = table[table["kind"] == kind]["value"].to_numpy().reshape(NEURONS, EXAMPLES)
        np.testing.assert_array_equal(own, expected)
    random = table[table["kind"] == "random"].groupby("neuron")["prompt"]
    assert (random.nunique() == 5).all() and random.first().nunique() > 50


def test_what_the_weights_say_is_that_of_each_neuron(built):
    steps, path = built
    module, architecture = steps.model.module, steps.model.architecture
    rows = (module.get_output_embeddings() or module.get_input_embeddings()).weight.detach()
    neurons = query(path, "SELECT * FROM neuron ORDER BY neuron")
    for number in (0, 50):
        layer, unit = divmod(number, 48)
        own = neurons.iloc[number]
        assert own["name"] == f"mlp_act.{layer}.{unit}"
        down = steps.model.layer(layer).get_submodule(architecture.down).weight.detach()
        written = down[unit] if architecture.family == "gpt2" else down[:, unit]
        scores = ((rows - rows.mean(0)) @ written).numpy()
        order = np.argsort(scores)
        display = steps.model.vocabulary.display
        for name, ids in (("promotes", order[::-1][:10]), ("suppresses", order[:10])):
            assert [entry["token"] for entry in own[name]] == [display(int(id)) for id in ids]
            stored = [entry["score"] for entry in own[name]]
            np.testing.assert_allclose(stored, scores[ids], atol=1e-5)
        assert len(own["neighbours"]) == 10
        assert number not in [entry["neuron"] for entry in own["neighbours"]]


def test_a_hostile_topic_is_only_a_name(built):
    _, path = built
    rows = query(path, "SELECT * FROM topic WHERE name = ?", HOSTILE)
    assert len(rows) == 1 and rows["prompts"][0] > 50


def test_a_second_build_returns_the_same_file_without_the_model(steps):
    path = steps().build()
    before = path.stat()
    again = steps()
    again.load = lambda: pytest.fail("the model is loaded")
    assert again.build() == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_other_thresholds_reuse_the_counts(steps):
    first = steps()
    path, strict = first.build(), steps(min_auroc=0.9)
    shard, strict.load = strict.load, lambda: pytest.fail("the model is loaded")
    folders = strict.count()
    strict.load = shard
    with counted_passes(first.model) as passes:
        other = strict.build()
    assert sum(passes) == first.topics.heldout.sum()  # along which directions are measured
    assert strict.count() == folders and other != path and other.parent == path.parent
    columns = "neuron, topic, auroc, ap_heldout, q, d"
    sql = f"SELECT {columns} FROM selectivity ORDER BY neuron, topic"
    pd.testing.assert_frame_equal(query(path, sql), query(other, sql))
    selective = [query(name, "SELECT selective FROM topic").sum().item() for name in (other, path)]
    assert selective[0] < selective[1]
    assert query(other, "SELECT min_auroc FROM model")["min_auroc"][0] == 0.9


def test_other_settings_of_the_counts_are_counted_again(steps):
    paths = [steps(**settings).build() for settings in ({}, {"seed": 1}, {"pool": "max"})]
    assert len({path.parent for path in paths}) == 3


def test_a_database_from_shards_is_that_of_a_single_pass(steps, monkeypatch, tmp_path):
    # values have the same last bits only if every prompt is a batch of its own
    monkeypatch.setattr("neuroscope.studies.store.plan.usual_budget", lambda device: 1)
    paths = []
    for shards in (1, 3):
        monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / str(shards)))
        paths.append(steps(shards=shards).build())
    assert_same_tables(*paths)


@pytest.fixture
def single_batches(monkeypatch):
    """Let every pass be a single batch."""
    for step in ("atlas.pilot", "atlas.directions", "store.plan"):
        monkeypatch.setattr(f"neuroscope.studies.{step}.usual_budget", lambda device: 100_000)


@pytest.mark.parametrize("finished", [0, 1, 2, 3])
def test_a_build_that_is_killed_ends_as_if_undisturbed(
    steps, single_batches, monkeypatch, tmp_path, finished
):
    """Killed at the pilot, at each of two shards, or at the directions."""
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "undisturbed"))
    atlas = steps(shards=2)
    with counted_passes(atlas.model) as passes:
        expected = atlas.build()
    assert len(passes) == 4

    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "killed"))
    with killed_at_pass(atlas.model, finished), pytest.raises(Killed):
        steps(shards=2).build()
    assert not list(tmp_path.glob("killed/atlas/*/*.duckdb"))
    with counted_passes(atlas.model) as remaining:
        path = steps(shards=2).build()
    assert remaining == passes[finished:]
    assert_same_tables(path, expected)


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"site": "resid_post"}, [0, 1]),
        ({"site": "mlp_act.1", "pool": "max"}, [1]),
        ({"site": "attn_out", "layers": "1"}, [1]),
        ({"site": "final"}, [1]),
    ],
)
def test_any_site_can_be_described(steps, settings, layers):
    path = steps(**settings).build()
    neurons = query(path, "SELECT * FROM neuron ORDER BY neuron")
    assert sorted(set(neurons["layer"])) == layers
    assert neurons["neuron"].tolist() == list(range(len(neurons)))
    acts = steps(**settings).extract()
    values = np.concatenate([acts[site] for site in acts.sites], axis=1)
    np.testing.assert_allclose(neurons["mean"], values.mean(axis=0, dtype=float), atol=1e-6)
    assert neurons["name"][0] == f"{next(iter(acts.sites))}.0"
    assert neurons["neighbours"].isna().all() == (not str(acts.sites[0]).startswith("mlp_act"))


def test_a_streamed_model_gives_the_same_measures_without_its_weights(family_folder, prompts):
    folder = str(family_folder("bert"))
    streamed, resident = (
        AtlasSteps(load_model(folder, memory=memory), prompts, memory=memory).build()
        for memory in ("stream", "resident")
    )
    assert streamed.parent == resident.parent  # with the same counts
    columns = "mean, sd, low, high, active"
    expected, own = (
        query(path, f"SELECT {columns} FROM neuron ORDER BY neuron")
        for path in (resident, streamed)
    )
    pd.testing.assert_frame_equal(own, expected, check_exact=False, rtol=1e-4)
    sql = "SELECT promotes, suppresses, neighbours FROM neuron"
    assert query(streamed, sql).isna().all(axis=None)
    assert query(resident, sql).notna().all(axis=None)
    steps = AtlasSteps(load_model(folder, memory="stream"), prompts)
    assert steps.build() == resident  # has all that the streamed one has
    resident.unlink()
    assert steps.build() == streamed


def test_a_neuron_that_never_varies_is_selective_for_nothing(family_folder, prompts, tmp_path):
    def silence(weights):
        for name in weights:
            if ".0.intermediate.dense" in name:
                weights[name][5] = 0
        return weights

    folder = copy_with_weights(family_folder("bert"), tmp_path / "dead", silence)
    path = AtlasSteps(load_model(str(folder)), prompts).build()
    dead = query(path, "SELECT * FROM neuron WHERE neuron = 5").iloc[0]
    assert dead["low"] == dead["high"] == dead["sd"] == dead["q50"] == dead["active"] == 0
    assert sum(dead["counts"]) == PROMPTS and max(dead["counts"]) == PROMPTS
    entries = query(path, "SELECT * FROM selectivity WHERE neuron = 5")
    assert (entries[["auroc", "auroc_heldout", "partial_auroc"]] == 0.5).all(axis=None)
    assert (entries["q"] == 1).all() and not entries["selective"].any()
    assert entries[["d", "r"]].isna().all(axis=None)
