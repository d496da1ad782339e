"""Recorded studies of layers: metrics, artifacts, report, several models."""

import csv
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from html_page import HtmlPage
from layered import labelled_prompts
from mlflow import MlflowClient
from models import make_model

from neuroscope import Tracker, run_layers
from neuroscope.errors import ExperimentError, ModelError, PromptError
from neuroscope.json_text import json_text
from neuroscope.stats.probes import Probe
from neuroscope.studies.layers.experiment import layers_experiment
from neuroscope.studies.layers.headline import headline
from neuroscope.studies.layers.tables import summary_table
from neuroscope.studies.study import load_experiment, results_document

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory):
    """Write a file of labelled prompts."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.csv"
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "topic"])
        writer.writerows((prompt.text, prompt.labels["topic"]) for prompt in labelled_prompts())
    return path


@pytest.fixture
def experiment_for(prompt_file, family_folder):
    """Return a function that creates an experiment over the labelled prompts."""

    def make(*models, source=None, **settings):
        names = [str(model) for model in models or [family_folder("bert")]]
        return layers_experiment("topics", names, source or {"file": str(prompt_file)}, **settings)

    return make


@pytest.fixture
def client(database):
    return MlflowClient(tracking_uri=Tracker.open().uri)


@pytest.mark.usefixtures("without_figures")
def test_metrics_have_the_layer_and_the_relative_depth_as_steps(experiment_for, client, tmp_path):
    deep = make_model("bert", tmp_path / "deep", layers=5)
    shallow = make_model("llama", tmp_path / "shallow", layers=2)
    tracker = Tracker.open()
    results = run_layers(experiment_for(deep, shallow), tracker)
    for result, depths in zip(results, ((20, 40, 60, 80, 100), (50, 100)), strict=True):
        metrics = tracker.metrics(result.run_id)
        for name in ("label_accuracy", "token_accuracy", "anisotropy", "effective_rank"):
            by_layer = dict(enumerate(result.column(name)))
            assert metrics[f"layer/{name}"] == pytest.approx(by_layer)
            by_depth = dict(zip(depths, result.column(name), strict=True))
            assert metrics[f"depth/{name}"] == pytest.approx(by_depth)
        assert len(metrics) <= 40 and "layer/label_low" not in metrics
    (deep_row, shallow_row) = (result.column("label_accuracy") for result in results)
    headline = results.overview.headline
    changes = [shallow_row[0] - deep_row[1], shallow_row[1] - deep_row[4]]  # nearest depths
    layer = int(np.argmax(np.abs(changes)))
    average = np.abs(changes).mean()
    assert f"Largest: layer {layer}, {shallow_row[layer]:.3f} instead of" in headline
    assert headline.startswith("shallow differs from deep:") and f"by {average:.3f}" in headline
    metrics, description = (
        tracker.metrics(results[1].run_id),
        client.get_run(results[1].run_id).data.tags["mlflow.note.content"],
    )
    assert metrics["difference/label_accuracy"] == pytest.approx(dict(enumerate(np.abs(changes))))
    assert metrics["summary/label_accuracy_difference"] == pytest.approx({0: average})
    assert f"Differs from deep by {average:.3f} on average" in description
    assert not [name for name in tracker.metrics(results[0].run_id) if "difference" in name]
    runs = client.search_runs([client.get_experiment_by_name("neuroscope/layers").experiment_id])
    assert len(runs) == 3 and {run.info.status for run in runs} == {"FINISHED"}
    assert len({run.data.tags["neuroscope.group"] for run in runs}) == 1


def test_artifacts_include_tables_cka_figures_and_a_report(experiment_for, client, tmp_path):
    (result,) = run_layers(experiment_for(note="which layer?"), Tracker.open())
    client.download_artifacts(result.run_id, "", str(tmp_path))
    table = pd.read_csv(tmp_path / "tables" / "layers.csv")
    pd.testing.assert_frame_equal(table, result.to_frame(), check_exact=False)
    cka = pd.read_csv(tmp_path / "tables" / "cka.csv", index_col=0)
    np.testing.assert_allclose(cka.to_numpy(), result.cka)
    assert list(cka.columns) == ["resid_post.0", "resid_post.1"]
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"reading_by_layer.png", "cka.png", "geometry_by_layer.png"} <= names
    page = HtmlPage((tmp_path / "report.html").read_text(encoding="utf-8"))
    sentence = result.headline[0].upper() + result.headline[1:]
    assert sentence in page.text and "which layer?" in page.text
    assert [tag for tag, _ in page.elements].count("img") == len(names)
    copy = load_experiment(tmp_path / "experiment.yaml")
    assert copy.prompt_set.digest == experiment_for().prompt_set.digest
    assert len(pd.read_parquet(tmp_path / "activations" / "resid_post.1")) == result.prompts


@pytest.mark.usefixtures("without_figures")
def test_the_json_document_has_one_entry_per_model(experiment_for, client):
    tracker = Tracker.open()
    results = run_layers(experiment_for(probes=False), tracker)
    document = results_document(results, tracker)
    (entry,) = document["runs"]
    assert document["overview"] is None
    assert {"run_id", "model", "site", "rows", "cka", "address", "report"} <= set(entry)
    assert [row["layer"] for row in entry["rows"]] == [0, 1]
    assert np.shape(entry["cka"]) == (2, 2)
    assert "NaN" not in json_text(entry)  # even though no probes were run
    table = summary_table(results[0])
    assert "topic" not in [column.heading for column in table.columns]


@pytest.mark.usefixtures("without_figures")
def test_a_second_study_reads_the_stored_activations(experiment_for, client, monkeypatch):
    from neuroscope.studies import subjects

    (first,) = run_layers(experiment_for(), Tracker.open())

    def refuse(*_, **__):
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr(subjects, "load_model", refuse)
    (second,) = run_layers(experiment_for(), Tracker.open())
    assert second.rows == first.rows


def test_threads_give_the_same_rows_and_progress_reports_every_step(experiment_for, client):
    steps = []
    (inline,) = run_layers(
        experiment_for(), Tracker.open(), progress=lambda *step: steps.append(step)
    )
    with ThreadPoolExecutor(3) as executor:
        (threaded,) = run_layers(experiment_for(), Tracker.open(), executor)
    assert threaded.rows == inline.rows
    assert steps[-1][1:] == (6, 6)
    tasks = [name.split()[0] for name, _, _ in steps]
    assert list(dict.fromkeys(tasks)) == ["extract", "measure", "probe", "report"]


def test_user_text_is_escaped_in_the_report(client, tmp_path, family_folder):
    path = tmp_path / "prompts.csv"
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["text", HOSTILE])
        writer.writerows(
            (f"the cat {HOSTILE} {prompt.text}", prompt.labels["topic"] + HOSTILE)
            for prompt in labelled_prompts()
        )
    experiment = layers_experiment(
        "x", [str(family_folder("bert"))], {"file": str(path)}, note=HOSTILE
    )
    (result,) = run_layers(experiment, Tracker.open())
    client.download_artifacts(result.run_id, "report.html", str(tmp_path))
    page = HtmlPage((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.count("script") == 1  # that of the page itself
    assert page.text.count(HOSTILE) >= 3


@pytest.mark.parametrize(
    ("settings", "error", "data"),
    [
        ({"label": "subject"}, ExperimentError, "'subject'"),
        ({"source": {"file": "nothing.csv"}}, PromptError, "nothing.csv"),
        ({"source": {"texts": ["a cat", "a dog"]}}, ExperimentError, "prompts: 2"),
        ({"models": ["nothing"]}, ModelError, "'nothing'"),
    ],
)
def test_an_invalid_experiment_opens_no_run(experiment_for, client, settings, error, data):
    models = settings.pop("models", [])
    with pytest.raises(error) as raised:
        run_layers(experiment_for(*models, **settings), Tracker.open())
    assert data in str(raised.value)
    assert client.get_experiment_by_name("neuroscope/layers") is None


def probe(accuracy, p_value=1e-9):
    margin = 0.04
    return Probe(accuracy, accuracy - margin, accuracy + margin, 0.2, p_value, 0.2, 300, 100, 5)


UNREADABLE = probe(0.21, p_value=0.6)


@pytest.mark.parametrize(
    ("label", "clause"),
    [
        (
            [probe(0.5), probe(0.7), probe(0.6)],
            "readable at every layer and best at layer 4",
        ),
        (
            [UNREADABLE, probe(0.6), probe(0.9)],
            "readable from layer 4 on and best at layer 6",
        ),
        (
            [UNREADABLE, probe(0.9), UNREADABLE],
            "readable at layer 4 only and best at layer 4",
        ),
        ([UNREADABLE] * 3, "not readable at any layer"),
    ],
)
def test_the_headline_says_where_the_label_is_readable(label, clause):
    sentence = headline([2, 4, 6], "topic", label, probe(0.3), [], [0.9, 0.5, math.nan])
    assert f"topic is {clause}" in sentence and "bag of tokens 30%" in sentence
    assert sentence.endswith("between layers 4 and 6 (CKA 0.50).")


@pytest.mark.parametrize(
    ("bag", "caveat"),
    [(0.3, ""), (0.95, ", but no better than from"), (0.87, ", but not clearly better than from")],
)
def test_the_headline_says_if_the_words_alone_tell_as_much(bag, caveat):
    sentence = headline([2, 4], "topic", [probe(0.9)] * 2, probe(bag), [], [0.9, math.nan])
    assert f"{bag:.0%}" in sentence and (", but no" in sentence) == bool(caveat)
    assert caveat in sentence


def test_the_columns_of_every_table_have_the_name_of_the_label_and_a_meaning(
    experiment_for, family_folder
):
    results = run_layers(experiment_for(family_folder("bert"), family_folder("llama")))
    tables = [*map(summary_table, results), *results.overview.tables]
    assert len(tables) == 3
    for table in tables:
        headings = [column.heading for column in table.columns]
        assert headings[:2] == ["layer", "topic"] and "label" not in headings
        (section,) = table.sections
        lines = section.title.replace("\n", " ")
        for column in table.columns[1:]:
            assert f"{column.heading}: {column.meaning}" in lines


@pytest.mark.parametrize(
    ("token", "clause"),
    [
        ([0.99, 0.98, 0.97], "stays readable (99% at layer 2)"),
        (
            [0.99, 0.95, 0.6],
            "fades from layer 6 on (99% at layer 2, 60% at layer 6)",
        ),
        ([0.9, 0.99, 0.6], "fades from layer 6 on (99% at layer 4, 60% at layer 6)"),
    ],
)
def test_the_headline_says_where_token_identity_fades(token, clause):
    sentence = headline(
        [2, 4, 6], "", [], None, [probe(accuracy) for accuracy in token], [0.9, 0.8, math.nan]
    )
    assert sentence.startswith(f"token identity {clause}")


def test_the_headline_of_a_single_layer_needs_no_comparison():
    sentence = headline([3], "topic", [probe(0.9)], probe(0.3), [], [math.nan])
    assert sentence == (
        "topic is readable at layer 3 (90% of held-out prompts, 95% interval 86% to 94%,"
        " chance 20%, bag of tokens 30%)."
    )
    sentence = headline([3], "", [], None, [probe(0.9)], [math.nan])
    assert sentence == "90% of held-out tokens are identified at layer 3."
