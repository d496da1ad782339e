"""The commands `neuroscope atlas`: building, asking, comparing, and their errors; the form."""

import json
import shutil
from contextlib import closing

import duckdb
import numpy as np
import pytest
from atlased import WORDS, topical_rows, write_rows
from models import make_model

import neuroscope as ns
from flows.atlas import atlas as form
from neuroscope.studies.atlas.study import run_atlas

TOPICS = sorted(WORDS)
LENIENT = ["--min-auroc", "0.6", "--min-lift", "1", "--min-one-vs-one", "0.5"]
"""Thresholds that neurons with random weights reach."""
OPTIONS = {"min_auroc": 0.6, "min_lift": 1, "min_one_vs_one": 0.5}


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory):
    """Write a file of 400 prompts on four topics."""
    return write_rows(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", topical_rows())


@pytest.fixture(scope="module")
def built(tmp_path_factory, prompt_file, family_folder):
    """Return the atlases of two models of the same shape, in a folder outside every home."""
    folder = tmp_path_factory.mktemp("atlases")
    other = make_model("bert", folder / "other", seed=1)
    paths = []
    for name, model in (("old", family_folder("bert")), ("new", other)):
        path = folder / f"{name}.duckdb"
        ns.build_atlas(ns.load_model(str(model)), str(prompt_file), path, **OPTIONS).close()
        paths.append(path)
    return paths


@pytest.fixture
def atlas(built):
    return built[0]


def test_building_prints_one_document_and_records_a_run(
    run_json, database, prompt_file, family_folder
):
    model = family_folder("bert")
    document = run_json("atlas", "build", prompt_file, "--model", model, *LENIENT, "--shards", 2)
    assert {"atlas", "run_id", "model", "site", "headline", "topics", "rows"} <= set(document)
    assert (document["model"], document["prompts"]) == (str(model), 400)
    with ns.open_atlas(document["run_id"]) as recorded, ns.open_atlas() as latest:
        assert recorded.path == latest.path
        assert len(recorded.sql("SELECT name FROM neuron")) == document["neurons"]
    with ns.open_atlas(str(model)) as of_model:
        assert of_model.path == recorded.path
    with ns.open_atlas(model.name) as of_folder:
        assert of_folder.path == recorded.path
    by_run = run_json("atlas", "topics", "--atlas", document["run_id"])["rows"]
    assert [row["name"] for row in by_run] == TOPICS


def test_building_prints_the_covariates_first(run_command, database, prompt_file, family_folder):
    code, printed = run_command("atlas", "build", prompt_file, "--model", family_folder("bert"))
    assert code == 0 and "without the model" in printed.out and "Report: " in printed.out
    for topic in TOPICS:
        assert topic in printed.out


def test_topics_and_neurons_are_those_of_the_database(run_json, atlas):
    with ns.open_atlas(atlas) as opened:
        topics, strongest = opened.topics(), opened.neurons("royals", top=3)
    rows = run_json("atlas", "topics", "--atlas", atlas)["rows"]
    assert [row["selective"] for row in rows] == topics["selective"].tolist()
    assert {"tokens", "question_mark", "digits", "upper_case", "reason"} <= set(rows[0])
    rows = run_json("atlas", "neurons", "--topic", "royals", "--top", 3, "--atlas", atlas)["rows"]
    assert [row["neuron"] for row in rows] == strongest["neuron"].tolist()
    assert {
        *("neuron", "topic", "auroc", "auroc_heldout", "auroc_error", "ap_heldout", "d", "q"),
        *("one_vs_one", "rival", "polarity", "partial_auroc", "confounded", "verified"),
    } <= set(rows[0])
    assert rows[0]["auroc_heldout"] == pytest.approx(strongest["auroc_heldout"][0])


@pytest.mark.parametrize(
    ("options", "condition"),
    [
        (["--silent"], lambda row: row["polarity"] < 0 and row["auroc_heldout"] <= 0.4),
        (["--active", "--not-confounded"], lambda row: row["auroc_heldout"] >= 0.6),
        (["--layers", "1"], lambda row: row["neuron"].startswith("mlp_act.1.")),
        (["--topic", "people", "--all"], lambda row: row["topic"] == "people"),
    ],
)
def test_neurons_are_filtered(run_json, atlas, options, condition):
    rows = run_json("atlas", "neurons", *options, "--top", 10, "--atlas", atlas)["rows"]
    assert rows and all(map(condition, rows))


def test_no_neuron_was_tested_by_silencing(run_json, atlas):
    assert run_json("atlas", "neurons", "--verified", "--atlas", atlas)["rows"] == []


def test_a_card_has_topics_examples_and_a_histogram(run_json, run_command, atlas):
    with ns.open_atlas(atlas) as opened:
        name = opened.neurons(top=1)["neuron"][0]
    card = run_json("atlas", "neuron", name, "--atlas", atlas)
    assert card["name"] == name and sum(card["counts"]) == 400
    assert sorted(row["topic"] for row in card["topics"]) == TOPICS
    strongest = [row for row in card["examples"] if row["kind"] == "strongest"]
    assert strongest[0]["value"] == pytest.approx(card["high"])
    _, printed = run_command("atlas", "neuron", name, "--examples", 2, "--atlas", atlas)
    assert "█" in printed.out and "covariate" in printed.out and "neighbours: " in printed.out
    excerpts = [row["excerpt"] for row in strongest]
    assert excerpts[1] in printed.out and excerpts[2] not in printed.out
    assert "[" in excerpts[0]


def test_a_search_gives_the_distance_from_the_mean(run_json, atlas, family_folder):
    rows = run_json("atlas", "search", "the queen sits", "--top", 4, "--atlas", atlas)["rows"]
    model = ns.load_model(str(family_folder("bert")))
    acts = ns.extract(model, ["the queen sits"], "mlp_act")
    with ns.open_atlas(atlas) as opened:
        neurons = opened.sql("SELECT name, layer, unit, mean, sd FROM neuron")
    values = [acts[f"mlp_act.{row.layer}"][0, row.unit] for row in neurons.itertuples()]
    z = (values - neurons["mean"]) / neurons["sd"]
    expected = neurons["name"][z.abs().sort_values(ascending=False).index[:4]]
    assert [row["neuron"] for row in rows] == expected.tolist()
    assert abs(rows[0]["z"]) == pytest.approx(z.abs().max(), rel=1e-3)
    assert {row["token"] for row in rows} <= {"the", "queen", "sits"}


def test_a_text_is_searched_in_the_template_of_the_prompts(prompt_file, family_folder, tmp_path):
    model = ns.load_model(str(family_folder("bert")))
    options = OPTIONS | {"prompt_template": "the old man sits in {}"}
    with ns.build_atlas(model, str(prompt_file), tmp_path / "atlas.duckdb", **options) as atlas:
        found = ns.search_text(atlas, "the queen sits", top=10_000, model=model)
        neurons = atlas.sql("SELECT name, layer, unit, mean, sd FROM neuron")
    acts = ns.extract(model, ["the old man sits in the queen sits"], "mlp_act")
    values = [acts[f"mlp_act.{row.layer}"][0, row.unit] for row in neurons.itertuples()]
    expected = ((values - neurons["mean"]) / neurons["sd"]).set_axis(neurons["name"])
    z = found.set_index("neuron")["z"][expected.index]
    np.testing.assert_allclose(z, expected, rtol=1e-3, atol=1e-3)


def test_a_search_names_no_topic_that_is_confounded(atlas, family_folder, tmp_path):
    path = shutil.copy(atlas, tmp_path / "changed.duckdb")
    with closing(duckdb.connect(str(path))) as writable:
        writable.execute("UPDATE selectivity SET selective = true, confounded = topic <> 1")
    model = ns.load_model(str(family_folder("bert")))
    with ns.open_atlas(path) as changed:
        found = ns.search_text(changed, "the queen sits", top=3, model=model)
        assert set(found["topics"]) == {changed.topics()["name"][1]}


def test_two_versions_are_compared(run_json, run_command, built):
    document = run_json("atlas", "diff", *built, "--top", 5)
    assert [row["topic"] for row in document["topics"]] == TOPICS
    for row in document["topics"]:
        assert row["old"] == row["kept"] + row["lost"]
        assert row["new"] == row["kept"] + row["gained"]
    changes = [abs(row["change"]) for row in document["rows"]]
    assert len(changes) == 5 and changes == sorted(changes, reverse=True)
    assert {"neuron", "topic", "auroc_old", "auroc_new", "state"} <= set(document["rows"][0])
    same = run_json("atlas", "diff", built[0], built[0], "--topic", "people")
    assert same["rows"] == [] and [row["lost"] for row in same["topics"]] == [0]
    _, printed = run_command("atlas", "diff", *built)
    assert "gained" in printed.out and "Neurons that changed most" in printed.out
    assert all(document[name] in printed.out for name in ("old", "new"))
    _, printed = run_command("atlas", "diff", built[0], built[0])
    assert "No neuron changed." in printed.out


@pytest.mark.parametrize("command", [["topics"], ["neurons"], ["search", "the cat", "--top", "3"]])
def test_a_table_ends_with_the_atlas_that_was_read(run_command, atlas, command):
    code, printed = run_command("atlas", *command, "--atlas", atlas)
    assert code == 0 and printed.out.endswith(f"\nAtlas: {atlas}\n")


@pytest.mark.parametrize(
    ("options", "data"),
    [
        (["--topic-column", "subject"], ["'subject'", "--topic-column topic"]),
        (["--source-column", "site"], ["'site'", "add a column of sources"]),
        (["--split", "source"], ["one source, or none", "--split prompt"]),
        (["--least-prompts", "200"], ["--leave-out", "'royals'"]),
        (["--text-column", "sentence"], ["--text-column text"]),
        (["--pool", "last"], ["--pool", "'last'"]),
        (["--layers", "9"], ["layer 9"]),
        (["--min-auroc", "2"], ["min_auroc", "2"]),
    ],
)
def test_a_fault_is_reported_before_any_work(
    run_command, home, prompt_file, family_folder, options, data
):
    model = family_folder("bert")
    code, printed = run_command("atlas", "build", prompt_file, "--model", model, *options)
    assert code == 2 and not home.exists()
    assert all(text in printed.err for text in data), printed.err


@pytest.mark.parametrize(
    ("arguments", "data"),
    [
        (["neurons", "--topic", "royal"], ["'royal'", "'royals'"]),
        (["neurons", "--layers", "7"], ["layer 7"]),
        (["neuron", "mlp_act.1.9999"], ["mlp_act.1.9999", "mlp_act.1."]),
        (["neuron", "nothing"], ["'nothing'"]),
        (["search", " "], ["blank"]),
    ],
)
def test_what_an_atlas_lacks_is_reported_with_the_nearest(run_command, atlas, arguments, data):
    code, printed = run_command("atlas", *arguments, "--atlas", atlas)
    assert code == 2 and all(text in printed.err for text in data), printed.err


def test_another_model_is_refused_for_a_search(run_command, built, tmp_path):
    code, printed = run_command(
        "atlas", "search", "the cat", "--atlas", built[0], "--model", built[0].parent / "other"
    )
    assert code == 2 and "SHA-256" in printed.err and "other" in printed.err


def test_a_missing_atlas_is_reported(run_command, run_json, database, atlas, tmp_path):
    code, printed = run_command("atlas", "topics")
    assert code != 0 and "neuroscope atlas build" in printed.err
    code, printed = run_command("atlas", "topics", "--atlas", "gpt9")
    assert code != 0 and "'gpt9'" in printed.err
    code, printed = run_command("atlas", "topics", "--atlas", tmp_path / "no.duckdb")
    assert code != 0 and "no.duckdb" in printed.err
    (tmp_path / "text.duckdb").write_text("no database")
    code, printed = run_command("atlas", "diff", atlas, tmp_path / "text.duckdb")
    assert code != 0 and "text.duckdb" in printed.err


def test_the_form_gives_the_experiment_of_the_command(prompt_file, family_folder, run_json, home):
    from flows.layers import PromptFile

    experiment = form.fn.__wrapped__(
        prompts=PromptFile(file=str(prompt_file)),
        models=[str(family_folder("bert"))],
        **OPTIONS,
    )
    (result,) = run_atlas(experiment)
    model = ["--model", family_folder("bert"), "--no-record"]
    document = run_json("atlas", "build", prompt_file, *model, *LENIENT)
    assert document["rows"] == json.loads(json.dumps(result.to_dict()["rows"]))
    assert document["atlas"] == result.atlas and document["run_id"] is None
    shutil.rmtree(home / "atlas")


def test_the_commands_of_an_atlas_are_listed(run_command):
    code, printed = run_command("atlas", "--help")
    assert code == 0
    for name in ("build", "topics", "neurons", "neuron", "search", "diff"):
        assert name in printed.out
