"""Recorded atlases: parameters, metrics, artifacts, report, several models, and the library."""

import numpy as np
import pandas as pd
import pytest
from atlased import WORDS, topical_rows, write_rows
from html_page import HtmlPage
from mlflow import MlflowClient

import neuroscope as ns
from flows.study_flow import form_spelling
from neuroscope import Tracker, run_atlas
from neuroscope.errors import ExperimentError, Option, StoreError
from neuroscope.json_text import json_text
from neuroscope.prompt_files import PromptFile
from neuroscope.studies.atlas.experiment import atlas_experiment
from neuroscope.studies.study import load_experiment, results_document

HOSTILE = "<b>bad</b>'; DROP TABLE topic; --"
TOPICS = sorted(WORDS)
OPTIONS = {"min_auroc": 0.6, "min_lift": 1, "min_one_vs_one": 0.5}
"""Thresholds that neurons with random weights reach."""


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory):
    """Write a file of 400 prompts on four topics."""
    return write_rows(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", topical_rows())


@pytest.fixture
def experiment_for(prompt_file, family_folder):
    """Return a function that creates an experiment over the prompts."""

    def make(*models, file=prompt_file, **settings):
        names = [str(model) for model in models or [family_folder("bert")]]
        return atlas_experiment("", names, {"file": str(file)}, **(OPTIONS | settings))

    return make


@pytest.fixture
def client(database):
    return MlflowClient(tracking_uri=Tracker.open().uri)


@pytest.mark.usefixtures("without_figures")
def test_a_run_has_params_and_metrics_that_the_database_confirms(experiment_for, client):
    tracker = Tracker.open()
    (result,) = run_atlas(experiment_for(shards=2, note="which?"), tracker)
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["neuroscope.kind"] == "atlas"
    expected = {"site": "mlp_act", "topic": "topic", "shards": "2", "min_auroc": "0.6"}
    assert expected.items() <= run.data.params.items()
    metrics = tracker.metrics(result.run_id)
    with ns.open_atlas(result.atlas) as atlas:
        counts = atlas.sql(
            "SELECT layer, count(*) FILTER (selective AND NOT confounded) AS selective,"
            " count(*) FILTER (confounded) AS confounded"
            " FROM selectivity JOIN neuron USING (neuron) GROUP BY layer ORDER BY layer"
        )
        areas = atlas.sql(
            "SELECT avg(best_auroc), avg(auroc_heldout) FROM direction GROUP BY layer"
            " ORDER BY layer"
        ).to_numpy()
    for name in ("selective", "confounded"):
        assert metrics[f"layer/{name}"] == dict(enumerate(counts[name].tolist()))
        assert metrics[f"summary/{name}"] == {0: counts[name].sum()}
    assert counts["selective"].sum() > 0
    for name, values in zip(("best_auroc", "direction_auroc"), areas.T, strict=True):
        assert metrics[f"layer/{name}"] == pytest.approx(dict(enumerate(values)))
    assert metrics["summary/topics"] == {0: 4} and metrics["summary/not_separable"] == {0: 0}
    description = run.data.tags["mlflow.note.content"]
    assert result.headline in description and "which?" in description


def test_the_files_of_a_run_hold_the_result(experiment_for, client, tmp_path):
    (result,) = run_atlas(experiment_for(note="which?"), Tracker.open())
    client.download_artifacts(result.run_id, "", str(tmp_path))
    table = pd.read_csv(tmp_path / "tables" / "atlas.csv")
    pd.testing.assert_frame_equal(table, result.to_frame(), check_exact=False)
    topics = pd.read_csv(tmp_path / "tables" / "topics.csv", keep_default_na=False)
    assert topics["topic"].tolist() == TOPICS and topics["prompts"].sum() == 400
    with ns.open_atlas(tmp_path / "atlas.duckdb") as atlas:
        assert atlas.topics()["name"].tolist() == TOPICS
        shown = atlas.neuron(result.topics[0].best_neuron)
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"selective_by_layer.png", "growth_by_layer.png"} <= names
    page = HtmlPage((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert result.headline[1:] in page.text and "which?" in page.text
    assert "reaches 0.6 (or 0.4 for" in " ".join(page.text.split())
    assert shown.neuron["name"] in page.text and "█" in page.text
    assert [tag for tag, _ in page.elements].count("img") == len(names)
    copy = load_experiment(tmp_path / "experiment.yaml")
    assert copy.prompt_set.digest == experiment_for().prompt_set.digest


@pytest.mark.usefixtures("without_figures")
def test_a_topic_is_only_a_name(experiment_for, client, tmp_path):
    rows = topical_rows(200)
    for row in rows:
        row["topic"] = row["topic"].replace("royals", HOSTILE)
    file = write_rows(tmp_path / "hostile.jsonl", rows)
    (result,) = run_atlas(experiment_for(file=file), Tracker.open())
    folder = client.download_artifacts(result.run_id, "", str(tmp_path))
    page = HtmlPage((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert HOSTILE in page.text and page.count("b") == 0
    with ns.open_atlas(f"{folder}/atlas.duckdb") as atlas:
        assert HOSTILE in atlas.topics()["name"].tolist()
        assert set(atlas.neurons(HOSTILE, selective=False)["topic"]) == {HOSTILE}


@pytest.mark.usefixtures("without_figures")
def test_two_models_are_compared_topic_by_topic(experiment_for, family_folder, client):
    tracker = Tracker.open()
    results = run_atlas(experiment_for(family_folder("bert"), family_folder("llama")), tracker)
    first, second = (result.to_frame() for result in results)
    change = (second["best_auroc"] - first["best_auroc"]).abs()
    metrics = tracker.metrics(results[1].run_id)
    assert metrics["summary/best_auroc_difference"] == pytest.approx({0: change.mean()})
    by_layer = change.groupby(first["layer"]).mean()
    assert metrics["difference/best_auroc"] == pytest.approx(by_layer.to_dict())
    (table,) = results.overview.tables
    (section,) = table.sections
    assert [row[1] for row in section.rows] == TOPICS * 2
    description = client.get_run(results[1].run_id).data.tags["mlflow.note.content"]
    assert "neuron and topic. Its best neurons differ" in description
    assert f"by {change.mean():.3f} in AUROC" in description
    runs = client.search_runs([client.get_experiment_by_name("neuroscope/atlas").experiment_id])
    assert len(runs) == 3 and {run.info.status for run in runs} == {"FINISHED"}


def test_the_json_document_has_the_atlas_and_no_nan(experiment_for):
    results = run_atlas(experiment_for())
    (entry,) = results_document(results, None)["runs"]
    assert {"run_id", "model", "site", "atlas", "prompts", "neurons", "topics"} <= set(entry)
    assert (entry["run_id"], entry["prompts"]) == (None, 400)
    assert "NaN" not in json_text(entry)
    assert repr(results[0]).count("\n") == 0


def test_prompts_of_one_length_and_no_punctuation_leave_nothing_to_covariates(
    experiment_for, tmp_path
):
    rows = [row for row in topical_rows(2000) if len(row["text"].split()) == 6]
    (result,) = run_atlas(experiment_for(file=write_rows(tmp_path / "p.jsonl", rows)))
    assert [row.covariate_auroc for row in result.topics] == [0.5] * 4
    assert sum(row.selective for row in result.topics) > 0
    assert [row.confounded for row in result.topics] == [0] * 4


def test_progress_reports_every_step_and_a_second_build_computes_nothing(
    experiment_for, monkeypatch
):
    from neuroscope.studies import subjects

    steps = []
    (first,) = run_atlas(experiment_for(shards=3), progress=lambda *step: steps.append(step))
    assert steps[-1][1:] == (5, 5)
    tasks = [name.split()[0] for name, _, _ in steps]
    assert list(dict.fromkeys(tasks)) == ["extract", "count", "measure"]

    def refuse(*_, **__):
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr(subjects, "load_model", refuse)
    (second,) = run_atlas(experiment_for(shards=3))
    assert second.rows == first.rows and second.atlas == first.atlas


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"topic": "subject"}, "topic = topic"),
        ({"least_prompts": 200}, "leave_out = True"),
        ({"split": "source"}, "split = prompt"),
    ],
)
def test_a_fault_of_the_prompts_names_the_field_of_the_form(experiment_for, settings, option):
    from flows.atlas import atlas

    with pytest.raises(ExperimentError) as raised:
        run_atlas(experiment_for(**settings))
    message = str(raised.value.on(form_spelling(atlas.fn)))
    assert option in message, message
    assert form_spelling(atlas.fn)(Option("leave_out", True, "x")) == "leave_out = True"


@pytest.fixture(scope="module")
def model(family_folder):
    return ns.load_model(str(family_folder("bert")))


def read(path):
    """Return the entries of an atlas."""
    with ns.open_atlas(path) as atlas:
        return atlas.sql("SELECT * EXCLUDE (counts) FROM selectivity ORDER BY neuron, topic")


def test_an_atlas_of_a_loaded_model_is_that_of_the_experiment(
    experiment_for, prompt_file, model, home, tmp_path
):
    with ns.build_atlas(model, str(prompt_file), tmp_path / "a.duckdb", **OPTIONS) as atlas:
        assert atlas.path == tmp_path / "a.duckdb" and len(atlas.topics()) == 4
        assert np.isfinite(atlas.neurons(top=5)["auroc_heldout"]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.duckdb"]
    assert not home.exists()
    in_memory = ns.read_prompts(prompt_file)
    ns.build_atlas(model, in_memory, tmp_path / "b.duckdb", **OPTIONS).close()
    opened = PromptFile.open(prompt_file, label_columns=["topic"])
    ns.build_atlas(model, opened, tmp_path / "c.duckdb", **OPTIONS).close()
    (result,) = run_atlas(experiment_for())
    expected = read(result.atlas)
    for name in "abc":
        pd.testing.assert_frame_equal(read(tmp_path / f"{name}.duckdb"), expected)


def test_an_atlas_of_a_loaded_model_replaces_nothing(model, prompt_file, tmp_path):
    (tmp_path / "a.duckdb").write_text("mine")
    for path in (tmp_path / "a.duckdb", tmp_path / "no" / "a.duckdb"):
        with pytest.raises(StoreError) as raised:
            ns.build_atlas(model, str(prompt_file), path)
        assert str(path) in str(raised.value)
    with pytest.raises(ExperimentError, match="min_auroc"):
        ns.build_atlas(model, str(prompt_file), tmp_path / "b.duckdb", min_aurc=0.6)
    with pytest.raises(ExperimentError, match="'subject'"):
        ns.build_atlas(model, str(prompt_file), tmp_path / "b.duckdb", topic="subject")
    assert [path.name for path in tmp_path.iterdir()] == ["a.duckdb"]
