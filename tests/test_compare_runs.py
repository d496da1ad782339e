"""Runs of comparisons in a real MLflow database: names, metrics, and the overview of models."""

import json
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from compared import MAN, WOMAN, all_runs, experiment_for
from mlflow import MlflowClient

from neuroscope import Tracker, run_comparison
from neuroscope.errors import ModelError, PromptError
from neuroscope.reporting import plots
from neuroscope.reporting.tables import plain_markdown
from neuroscope.sites import Site
from neuroscope.studies.compare.models import difference_tables
from neuroscope.studies.overview import depth_notes, differences, overview_headline
from neuroscope.studies.study import load_experiment
from neuroscope.studies.subjects import Subject

VERBS = ("sits", "walks", "runs", "is", "sleeps", "eats", "falls", "jumps", "reads", "sings")


def test_one_run_per_model_and_an_overview_share_a_group(recorded, family_folder):
    comparisons, client = recorded
    names = [str(family_folder("bert")), str(family_folder("llama"))]
    assert [comparison.model for comparison in comparisons] == names
    runs = [client.get_run(comparison.run_id) for comparison in comparisons]
    group = runs[0].data.tags["neuroscope.group"]
    together = client.search_runs(
        [runs[0].info.experiment_id], filter_string=f"tags.`neuroscope.group` = '{group}'"
    )
    assert len(together) == 3 and group.startswith("engineer ")
    assert {run.info.status for run in together} == {"FINISHED"}
    assert runs[0].data.tags["neuroscope.model"] == comparisons[0].model
    assert len(runs[0].data.tags["neuroscope.model_sha"]) == 64
    assert runs[0].data.params["layers"] == "0,1" and runs[0].data.params["site"] == "resid_post"
    assert runs[0].data.params["model"] == family_folder("bert").name
    assert runs[0].data.params["model_name"] == comparisons[0].model


@pytest.mark.usefixtures("without_figures")
def test_names_begin_with_the_model_then_what_is_unusual_then_the_date(family_folder, database):
    tracker = Tracker.open()
    experiment = experiment_for(family_folder("bert"), site="mlp_act", dtype="bfloat16")
    (comparison,) = run_comparison(experiment, tracker)
    (run,) = tracker.find_runs("compare")
    model, site, dtype, date, time, name = run.name.split()
    assert (model, site, dtype, name) == (
        *(family_folder("bert").name, "mlp_act", "bfloat16", "engineer"),
    )
    recorded_at = f"{run.started.astimezone():%m-%d %H:%M}"
    assert f"{date} {time}" <= recorded_at and comparison.run_id == run.id


def test_every_run_tells_its_model_prompts_source_and_finding(recorded):
    comparisons, client = recorded
    for run, finding in zip(
        map(client.get_run, comparisons.run_ids),
        [*(comparison.headline for comparison in comparisons), comparisons.overview.headline],
        strict=True,
    ):
        assert run.inputs.dataset_inputs[0].dataset.name == "engineer"
        assert run.data.tags["mlflow.source.name"] == "resid_post compare"
        assert run.data.tags["mlflow.user"]
        description = run.data.tags["mlflow.note.content"]
        link, _, text = description.partition(" · ")  # MLflow fades out what is further below
        assert link.startswith("[Open the report](#/")
        assert f"{run.info.run_id}/artifacts/report.html" in link
        assert text.startswith(plain_markdown(finding)) and text.endswith("\n\nwhy")
        models = [client.get_logged_model(model.model_id) for model in run.inputs.model_inputs]
        names = run.data.params["model"].split(", ")
        assert sorted(model.name for model in models) == sorted(names)


def test_a_model_has_the_summary_of_its_run_on_these_prompts(recorded):
    comparisons, client = recorded
    run = client.get_run(comparisons[0].run_id)
    model = client.get_logged_model(run.inputs.model_inputs[0].model_id)
    assert model.source_run_id == run.info.run_id and model.status == "READY"
    assert model.tags["neuroscope.model_sha"] == run.data.tags["neuroscope.model_sha"]
    assert model.params["model"] == comparisons[0].model
    values = {metric.key: (metric.value, metric.dataset_name) for metric in model.metrics}
    expected = run.data.metrics["summary/span_cosine_z_mean"]
    assert len(values) == 3 and values["summary/span_cosine_z_mean"] == (expected, "engineer")


def test_metrics_are_means_over_pairs_with_the_layer_as_step(recorded):
    comparisons, client = recorded
    frame = comparisons[0].to_frame()
    for view in ("aligned", "span", "context"):
        means = frame[frame["view"] == view].groupby("layer")["rms_z"].mean()
        history = client.get_metric_history(comparisons[0].run_id, f"{view}/rms_z")
        assert {point.step: point.value for point in history} == pytest.approx(means.to_dict())
    spans = frame[frame["view"] == "span"]
    rows = spans[(spans["a"] == MAN) & (spans["b"] == WOMAN)]
    history = client.get_metric_history(comparisons[0].run_id, "pairs/man vs woman")
    assert {point.step: point.value for point in history} == pytest.approx(
        dict(zip(rows["layer"], rows["cosine_z"], strict=True))
    )
    metrics = client.get_run(comparisons[0].run_id).data.metrics
    assert metrics["summary/span_cosine_z_mean"] == pytest.approx(spans["cosine_z"].mean())
    least, layer = (metrics[f"summary/span_cosine_z_{name}"] for name in ("min", "min_layer"))
    assert least == pytest.approx(spans["cosine_z"].min())
    sentence = comparisons[0].headline.partition(";")[0]
    assert f"at layer {layer:.0f} (" in sentence and f"{least:.2f})" in sentence


def test_a_model_carries_its_difference_from_the_first(recorded, family_folder):
    comparisons, client = recorded
    first, second = (
        {view: comparison.values("cosine_z", view) for view in ("span", "context", "aligned")}
        for comparison in comparisons
    )
    for view, values in second.items():
        history = client.get_metric_history(comparisons[1].run_id, f"difference/{view}_cosine_z")
        sizes = np.nanmean(np.abs(values - first[view]), axis=0)
        assert {point.step: point.value for point in history} == pytest.approx(
            dict(enumerate(sizes))
        )
    run = client.get_run(comparisons[1].run_id)
    average = np.abs(second["span"] - first["span"]).mean()
    assert run.data.metrics["summary/span_cosine_z_difference"] == pytest.approx(average)
    sentence = f"Differs from {family_folder('bert').name} by {average:.3f} on average"
    assert sentence in run.data.tags["mlflow.note.content"].replace("\\", "")
    reference = client.get_run(comparisons[0].run_id).data
    assert not [name for name in reference.metrics if "difference" in name]
    assert "Differs from" not in reference.tags["mlflow.note.content"]


@pytest.mark.parametrize("count", [2, 5, 6, 20])
def test_a_run_has_at_most_forty_metrics(count, family_folder, database, monkeypatch):
    monkeypatch.setattr(plots, "save_png", lambda figure, path: path.touch())
    words = [f"the {word} {verb} ." for word in ("cat", "dog") for verb in VERBS][:count]
    tracker = Tracker.open()
    experiment = experiment_for(family_folder("bert"), prompts=[{"texts": words}])
    (comparison,) = run_comparison(experiment, tracker)
    metrics = tracker.metrics(comparison.run_id)
    pairs = count * (count - 1) // 2
    shown = pairs if 1 < pairs <= 12 else 0
    assert len([name for name in metrics if name.startswith("pairs/")]) == shown
    assert len(metrics) == 18 + 3 + shown <= 40
    folder = tracker.artifact(comparison.run_id, "plots")
    assert (folder / "prompts_resid_post.0.png").is_file() == (pairs > 1)
    assert (folder / "pairs_by_layer.png").is_file() == (1 < pairs <= 12)


def test_the_overview_says_what_differs_per_pair_and_layer(recorded, tmp_path, family_folder):
    comparisons, client = recorded
    client.download_artifacts(comparisons.overview.run_id, "", str(tmp_path))
    table = pd.read_csv(tmp_path / "tables" / "compare.csv")
    assert len(table) == sum(len(comparison.rows) for comparison in comparisons)
    bert, llama = family_folder("bert").name, family_folder("llama").name
    assert set(table["model"]) == {bert, llama}
    changes = pd.read_csv(tmp_path / "tables" / "differences.csv")
    assert set(changes["model"]) == {llama} and set(changes["reference"]) == {bert}
    first, second = (comparison.values("cosine_z", "span") for comparison in comparisons)
    spans = changes[changes["view"] == "span"].pivot(index="pair", columns="layer")
    labels = comparisons[0].labels
    assert spans["cosine_z"].loc[labels].to_numpy() == pytest.approx(second - first, abs=1e-9)
    overview = comparisons.overview
    assert f"{np.abs(second - first).mean():.3f}" in overview.headline
    assert overview.tables[0].title.startswith(f"{llama} minus {bert}")
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    dataset = client.get_run(overview.run_id).inputs.dataset_inputs[0].dataset
    assert (tmp_path / json.loads(dataset.source)["artifact"]).is_file()
    assert overview.headline in report and report.count("data:image/png") == 1
    assert "how alike" in report and MAN in report  # the measure and the prompts
    assert "resid_post: residual stream leaving the layer" in report
    assert load_experiment(tmp_path / "experiment.yaml").models == [
        str(family_folder("bert")),
        str(family_folder("llama")),
    ]


def changes_of(**models):
    """Return the differences of models from a first one: model -> pair -> difference per layer."""
    return pd.DataFrame(
        {
            **{"model": model, "reference": "v1", "pair": pair, "layer": layer, "view": "span"},
            **{"cosine_z": value, "cosine_z_model": 0.5 + value, "cosine_z_reference": 0.5},
        }
        for model, pairs in models.items()
        for pair, values in pairs.items()
        for layer, value in enumerate(values)
    )


def test_the_headline_begins_with_the_model_that_differs_most():
    changes = changes_of(v2={"a vs b": (0, 0.02)}, v3={"a vs b": (0.1, -0.504)})
    assert overview_headline(changes, "cosine_z", "cosines", 2) == (
        "v3 differs most from v1: the cosines differ by 0.302 on average (v2: 0.010)."
        " Largest: a vs b at layer 1, 0.00 instead of 0.50."
    )
    elsewhere = changes_of(v2={"a vs b": (0, 0.3)}, v3={"a vs b": (0.2, 0.2)})
    assert "layer 1 of v2, 0.80 instead of 0.50" in overview_headline(
        elsewhere, "cosine_z", "cosines", 2
    )
    equal = changes_of(v2={"a vs b": (0.0, 0.0)})
    assert "the same" in overview_headline(equal, "cosine_z", "cosines", 2)


def test_tables_of_models_and_their_rows_begin_with_the_largest_difference():
    changes = changes_of(
        v2={"a vs b": (0.1, 0.1), "c vs d": (0.01, 0.01)},
        v3={"a vs b": (0.0, 0.1), "c vs d": (-0.9, 0.2)},
    )
    tables = difference_tables(changes, is_recorded=True)
    assert [table.title.partition(" ")[0] for table in tables] == ["v3", "v2"]
    assert [[row[0] for row in table.sections[0].rows] for table in tables] == [
        ["c vs d", "a vs b"]
    ] * 2
    assert [row[1:3] for row in tables[0].sections[0].rows] == [[-0.9, 0], [0.1, 1]]


class Depth(NamedTuple):
    layer_count: int


def test_two_names_of_one_model_are_refused(family_folder, tmp_path, database):
    folder = family_folder("bert")
    with pytest.raises(ModelError) as raised:
        run_comparison(experiment_for(folder, f"{folder}/../{folder.name}"))
    assert str(folder) in raised.value.problem and raised.value.keys == ("models", 1)


def test_layers_of_models_of_different_depth_are_matched_by_relative_depth():
    def subject(name, count):
        checkpoint = Depth(count)
        return Subject(name, checkpoint, tuple(Site("resid_post", i) for i in range(count)))

    frames = {
        subject("deep", 6): pd.DataFrame({"layer": range(6), "value": np.arange(6.0)}),
        subject("flat", 3): pd.DataFrame({"layer": range(3), "value": np.zeros(3)}),
    }
    changes = differences(frames, (), ["value"])
    assert changes["reference_layer"].tolist() == [1, 3, 5]
    assert changes["value"].tolist() == [-1, -3, -5]
    assert depth_notes(list(frames)) and not depth_notes(list(frames)[:1])


def test_nothing_is_recorded_without_a_tracker(family_folder, database):
    experiment = experiment_for(family_folder("bert"), family_folder("llama"))
    results = run_comparison(experiment)
    assert [result.run_id for result in results] == [None, None] and results.run_ids == []
    assert results.overview.headline
    assert not database.exists() or not all_runs(MlflowClient(f"sqlite:///{database}"))


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("recorded", [True, False])
def test_a_file_of_all_differences_is_named_only_if_there_is_one(recorded, family_folder, database):
    words = [f"the cat {verb} ." for verb in VERBS][:6]
    models = family_folder("bert"), family_folder("llama")
    tracker = Tracker.open() if recorded else None
    results = run_comparison(experiment_for(*models, prompts=[{"texts": words}]), tracker)
    (note,) = results.overview.tables[0].notes
    assert ("tables/differences.csv" in note) == recorded
    if tracker:
        assert tracker.artifact(results.overview.run_id, "tables/differences.csv").is_file()


@pytest.mark.usefixtures("without_figures")
def test_a_single_model_has_one_run(family_folder, database):
    tracker = Tracker.open()
    run_comparison(experiment_for(family_folder("bert")), tracker)
    assert len(all_runs(MlflowClient(tracking_uri=tracker.uri))) == 1


def test_a_prompt_over_the_limit_leaves_a_failed_run_that_says_why(family_folder, database):
    tracker = Tracker.open()
    long = [{"texts": [MAN, " ".join(["cat"] * 80)]}]
    with pytest.raises(PromptError, match=r"\b64\b") as raised:
        run_comparison(experiment_for(family_folder("bert"), prompts=long), tracker)
    (run,) = all_runs(MlflowClient(tracking_uri=tracker.uri))
    assert run.info.status == "FAILED"
    assert run.data.tags["neuroscope.error"] == str(raised.value)
    assert run.data.tags["mlflow.note.content"].startswith("Failed: ")


@pytest.mark.usefixtures("without_figures")
def test_metric_names_with_unusual_letters_are_distinct(family_folder, database):
    texts = ["the 猫 .", "the 狗 .", "the a/b .", "the a_b ."]
    tracker = Tracker.open()
    (comparison,) = run_comparison(
        experiment_for(family_folder("gpt2"), prompts=[{"texts": texts}]), tracker
    )
    client = MlflowClient(tracking_uri=tracker.uri)
    metrics = client.get_run(comparison.run_id).data.metrics
    pairs = [name for name in metrics if name.startswith("pairs/")]
    assert "pairs/猫 vs 狗" in pairs and len(pairs) == 6
    assert all(len(client.get_metric_history(comparison.run_id, name)) == 2 for name in pairs)
