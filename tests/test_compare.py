"""Complete comparisons of tiny models, recorded in a real MLflow database."""

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from neuroscope import Tracker, compare, extract, load_model, run_comparison
from neuroscope.errors import ExperimentError, ModelError, PromptError, SiteError
from neuroscope.experiment import make_experiment
from neuroscope.reporting.tables import plain_markdown
from neuroscope.sites import Site
from neuroscope.studies.compare.experiment import CompareExperiment
from neuroscope.studies.compare.figures import prompt_matrix
from neuroscope.studies.compare.focus import focus_layers
from neuroscope.studies.overview import depth_notes, differences
from neuroscope.studies.study import load_experiment
from neuroscope.studies.subjects import Subject

VERBS = ("sits", "walks", "runs", "is", "sleeps", "eats", "falls", "jumps", "reads", "sings")
MAN, WOMAN, BOY = (f"the engineer is a {fill} ." for fill in ("man", "woman", "boy"))


def experiment_for(*models, **changes):
    settings = {
        "kind": "compare",
        "name": "engineer",
        "models": [str(model) for model in models],
        "prompts": [{"template": "the engineer is a {} .", "fills": ["man", "woman", "boy"]}],
    }
    return make_experiment(CompareExperiment, settings | changes)


@pytest.fixture
def recorded(family_folder, database):
    """Record a comparison in two models; return the results and a client of MLflow."""
    tracker = Tracker.open()
    experiment = experiment_for(family_folder("bert"), family_folder("llama"), note="why")
    comparisons = run_comparison(experiment, tracker)
    return comparisons, MlflowClient(tracking_uri=tracker.uri)


def test_there_is_one_row_per_layer_pair_and_view(family_folder):
    comparison = compare(load_model(str(family_folder("bert"))), [MAN, WOMAN, BOY])
    frame = comparison.to_frame()
    assert len(frame) == 2 * 3 * 3
    assert not frame.duplicated(["layer", "a", "b", "view"]).any()
    assert set(frame["view"]) == {"aligned", "span", "context"}
    assert comparison.pairs[0].tokens_a == 6 and comparison.pairs[0].jaccard == pytest.approx(5 / 7)


def test_values_equal_those_computed_from_the_activations(family_folder):
    model = load_model(str(family_folder("gpt2")))
    acts = extract(model, [MAN, WOMAN], "mlp_act", 1, pool="none", token_rule="all")
    a, b = (values.astype(float) for values in acts["mlp_act.1"])
    rows = {row.view: row for row in compare(model, [MAN, WOMAN], "mlp_act.1").rows}
    assert a.shape == b.shape  # one token replaced by one
    flat = float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
    assert rows["aligned"].cosine == pytest.approx(flat, abs=1e-6)
    assert rows["aligned"].mse == pytest.approx(((a - b) ** 2).mean(), rel=1e-5)
    ids = [tokens.ids for tokens in acts.tokens]
    replaced = next(i for i in range(len(a)) if ids[0][i] != ids[1][i])
    x, y = a[replaced], b[replaced]
    cosine = float(np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y))
    assert rows["span"].cosine == pytest.approx(cosine, abs=1e-6)
    assert rows["context"].positions == 4  # the shared words; the full stop is left out


def test_prompts_that_the_model_cannot_distinguish_are_noted(family_folder):
    model = load_model(str(family_folder("bert")))
    prompts = ["the 猫 sits .", "the 狗 sits .", "the cat sits ."]
    cat, dog, same = compare(model, prompts).notes
    assert "1 of 4" in cat and prompts[0] in cat and "1 of 4" in dog and prompts[1] in dog
    assert f"'{prompts[0]}' and '{prompts[1]}'" in same
    assert compare(model, [MAN, WOMAN]).notes == ()


def test_two_prompts_are_needed(family_folder):
    model = load_model(str(family_folder("bert")))
    with pytest.raises(ExperimentError, match=f"'{MAN}'"):
        compare(model, [MAN])
    with pytest.raises(PromptError):
        compare(model, [])


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
        assert description.startswith(plain_markdown(finding)) and description.endswith("\n\nwhy")
        assert f"{run.info.run_id}/artifacts/report.html" in description
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
    means = spans.groupby("layer")["cosine_z"].mean()
    assert metrics["summary/span_cosine_z_min"] == pytest.approx(means.min())
    assert metrics["summary/span_cosine_z_min_layer"] == means.idxmin()
    assert metrics["summary/span_cosine_z_mean"] == pytest.approx(means.mean())


@pytest.mark.parametrize("count", [2, 5, 6, 20])
def test_a_run_has_at_most_forty_metrics(count, family_folder, database):
    words = [f"the {word} {verb} ." for word in ("cat", "dog") for verb in VERBS][:count]
    tracker = Tracker.open()
    experiment = experiment_for(family_folder("bert"), prompts=[{"texts": words}])
    (comparison,) = run_comparison(experiment, tracker)
    metrics = tracker.metrics(comparison.run_id)
    pairs = count * (count - 1) // 2
    shown = pairs if 1 < pairs <= 12 else 0
    assert len([name for name in metrics if name.startswith("pairs/")]) == shown
    assert len(metrics) == 18 + 3 + shown <= 40
    plots = tracker.artifact(comparison.run_id, "plots")
    assert (plots / "prompts_resid_post.0.png").is_file() == (pairs > 1)
    assert (plots / "pairs_by_layer.png").is_file() == (1 < pairs <= 12)


def test_prompts_by_prompts_are_symmetric_and_empty_between_groups(family_folder):
    groups = [{"texts": [MAN, WOMAN]}, {"texts": ["the cat sits .", "the dog sits ."]}]
    (comparison,) = run_comparison(experiment_for(family_folder("bert"), prompts=groups))
    matrix = prompt_matrix(comparison, 1)
    value = comparison.values("cosine_z", "span")[0, 1]
    assert matrix[0, 1] == matrix[1, 0] == value and matrix.diagonal().tolist() == [1] * 4
    assert np.isnan(matrix[:2, 2:]).all()


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
    assert overview.headline in report and report.count("data:image/png") == 1
    assert load_experiment(tmp_path / "experiment.yaml").models == [
        str(family_folder("bert")),
        str(family_folder("llama")),
    ]


class Depth(NamedTuple):
    layer_count: int


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


def test_a_single_model_has_one_run(family_folder, database):
    tracker = Tracker.open()
    run_comparison(experiment_for(family_folder("bert")), tracker)
    assert len(all_runs(MlflowClient(tracking_uri=tracker.uri))) == 1


def test_artifacts_include_tables_figures_and_reports(recorded, tmp_path):
    comparisons, client = recorded
    folder = tmp_path / "artifacts"
    folder.mkdir()
    client.download_artifacts(comparisons[0].run_id, "", str(folder))
    table = pd.read_csv(folder / "tables" / "compare.csv")
    pd.testing.assert_frame_equal(table, comparisons[0].to_frame(), check_exact=False)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert {"fingerprint", "attention", "dtype", "padding_side", "token_rule"} <= set(provenance)
    copy = load_experiment(folder / "experiment.yaml")
    assert copy.pairs() == [(MAN, WOMAN), (MAN, BOY), (WOMAN, BOY)]
    values = pd.read_parquet(folder / "activations" / "resid_post.1")
    assert len(values) == sum(len(tokens) for tokens in extract_tokens(comparisons[0].model))
    names = {path.name for path in (folder / "plots").iterdir()}
    assert {"by_layer.png", "pairs_by_layer.png", "prompts_resid_post.0.png"} <= names
    assert {f"neurons_resid_post.0_{i}.png" for i in range(3)} <= names
    assert {f"difference_resid_post.0_{i}.png" for i in range(3)} <= names
    assert "'the engineer is a man .' vs. 'the engineer is a woman .'" in (
        folder / "report.txt"
    ).read_text(encoding="utf-8")
    assert (folder / "report.html").read_text(encoding="utf-8").count("data:image/png") == len(
        names
    )


def extract_tokens(folder):
    return extract(load_model(folder), [MAN, WOMAN, BOY], layers=0).tokens


def test_a_second_run_reads_the_stored_activations(family_folder, database, monkeypatch):
    from neuroscope.studies import subjects

    experiment, tracker = experiment_for(family_folder("bert")), Tracker.open()
    first = run_comparison(experiment, tracker)

    def refuse(*_, **__):
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr(subjects, "load_model", refuse)
    assert run_comparison(experiment, tracker)[0].rows == first[0].rows


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_every_executor_gives_the_same_rows(kind, family_folder, database):
    experiment, tracker = experiment_for(family_folder("bert")), Tracker.open()
    inline = run_comparison(experiment, tracker)[0]
    make_executor = {
        "threads": lambda: ThreadPoolExecutor(4),
        "processes": lambda: ProcessPoolExecutor(1, mp_context=get_context("spawn")),
    }[kind]
    with make_executor() as executor:
        assert run_comparison(experiment, tracker, executor)[0].rows == inline.rows


def test_progress_reports_every_step(family_folder, database):
    reports = []
    run_comparison(
        experiment_for(family_folder("bert")),
        Tracker.open(),
        progress=lambda *step: reports.append(step),
    )
    name = family_folder("bert").name
    assert list(dict.fromkeys(task for task, _, _ in reports)) == [
        f"extract {name}",
        f"compare {name} resid_post.0",
        f"compare {name} resid_post.1",
        f"report {name}",
    ]
    assert reports[-1][1:] == (4, 4)


def test_published_figures_are_shown_beside_the_measured_ones(family_folder, database, tmp_path):
    model = str(family_folder("bert"))
    pair = {"a": MAN, "b": WOMAN, "cosine": 0.9480, "mse": 0.0540}
    reference = {"model": model, "site": "resid_post.1", "source": "a book", "pairs": [pair]}
    tracker = Tracker.open()
    (comparison,) = run_comparison(experiment_for(model, published=reference), tracker)
    text = report_text(tracker, comparison, tmp_path)
    row = next(row for row in comparison.rows if (row.layer, row.view) == (1, "aligned"))
    assert f"Cosine Similarity: {row.cosine:.4f} (published 0.9480)" in text
    assert f"Mean Squared Error: {row.mse:.4f} (published 0.0540)" in text


def test_published_figures_of_another_model_are_not_shown(family_folder, database, tmp_path):
    pair = {"a": MAN, "b": WOMAN, "cosine": 0.9480, "mse": 0.0540}
    reference = {"model": "bert-base-uncased", "site": "resid_post.5", "source": "a book"}
    tracker = Tracker.open()
    experiment = experiment_for(family_folder("bert"), published=reference | {"pairs": [pair]})
    text = report_text(tracker, run_comparison(experiment, tracker)[0], tmp_path)
    assert "bert-base-uncased at resid_post.5" in text
    assert "0.9480" not in text


def report_text(tracker, comparison, folder):
    client = MlflowClient(tracking_uri=tracker.uri)
    client.download_artifacts(comparison.run_id, "report.txt", str(folder))
    return (folder / "report.txt").read_text(encoding="utf-8")


def all_runs(client):
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(ids)


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"models": ["./nothing"]}, ModelError),
        ({"layers": "7"}, SiteError),
        ({"plot_layers": "7"}, SiteError),
    ],
)
def test_a_missing_model_or_layer_opens_no_run(changes, error, family_folder, database):
    tracker = Tracker.open()
    with pytest.raises(error):
        run_comparison(experiment_for(family_folder("bert"), **changes), tracker)
    assert all_runs(MlflowClient(tracking_uri=tracker.uri)) == []


def test_a_prompt_over_the_limit_leaves_a_failed_run_that_says_why(family_folder, database):
    tracker = Tracker.open()
    long = [{"texts": [MAN, " ".join(["cat"] * 80)]}]
    with pytest.raises(PromptError, match=r"\b64\b") as raised:
        run_comparison(experiment_for(family_folder("bert"), prompts=long), tracker)
    (run,) = all_runs(MlflowClient(tracking_uri=tracker.uri))
    assert run.info.status == "FAILED"
    assert run.data.tags["neuroscope.error"] == str(raised.value)
    assert run.data.tags["mlflow.note.content"].startswith("Failed: ")


def test_prompts_with_equal_tokens_have_no_difference_figure(family_folder, database, tmp_path):
    # the tokenizer drops the white space in which the two differ
    tracker = Tracker.open()
    alike = [{"texts": ["the cat .", "the  cat ."]}]
    (comparison,) = run_comparison(experiment_for(family_folder("bert"), prompts=alike), tracker)
    aligned = [row for row in comparison.rows if row.view == "aligned"]
    assert [row.cosine for row in aligned] == pytest.approx([1, 1])
    assert [row.mse for row in aligned] == pytest.approx([0, 0])
    assert all(np.isnan(row.cosine) for row in comparison.rows if row.view == "span")
    plots = MlflowClient(tracking_uri=tracker.uri).list_artifacts(comparison.run_id, "plots")
    assert not [plot.path for plot in plots if "difference" in plot.path]


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


def test_layers_to_draw_that_are_not_compared_are_refused():
    with pytest.raises(SiteError) as raised:
        focus_layers("1", (3, 4), 6)
    assert "'1'" in str(raised.value) and "(3, 4)" in str(raised.value)
    assert raised.value.options[0].name == "plot_layers"


def test_layers_to_draw_are_layers_of_the_model():
    assert focus_layers("-1", (0, 5), 6) == (5,)
    with pytest.raises(SiteError, match=r"\b7\b.*\b6\b"):
        focus_layers("7", (0, 1), 6)


@pytest.mark.parametrize(
    "layers, choice, expected",
    [
        (range(12), "middle", (5,)),  # the 6th of 12
        (range(6), "middle", (2,)),
        ((4,), "middle", (4,)),
        (range(12), "0,-1", (0, 11)),
    ],
)
def test_focus_layers_are_chosen_by_number_or_as_the_middle(layers, choice, expected):
    assert focus_layers(choice, tuple(layers), 12) == expected
