"""Complete comparisons of tiny models, recorded in a real MLflow database."""

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from neuroscope import Tracker, compare, extract, load_model, run_comparison
from neuroscope.errors import ExperimentError, ModelError, PromptError, SiteError
from neuroscope.experiment import make_experiment
from neuroscope.studies.compare.experiment import CompareExperiment
from neuroscope.studies.compare.focus import focus_layers
from neuroscope.studies.study import load_experiment

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
    assert {run.data.tags["mlflow.note.content"] for run in together} == {"why"}
    assert runs[0].data.tags["neuroscope.model"] == comparisons[0].model
    assert len(runs[0].data.tags["neuroscope.model_sha"]) == 64
    assert runs[0].data.params["layers"] == "0,1" and runs[0].data.params["site"] == "resid_post"
    assert runs[0].inputs.dataset_inputs[0].dataset.name == "engineer"


def test_metrics_are_the_rows_with_the_layer_as_step(recorded):
    comparisons, client = recorded
    frame = comparisons[0].to_frame()
    for view in ("aligned", "span", "context"):
        rows = frame[(frame["view"] == view) & (frame["a"] == MAN) & (frame["b"] == WOMAN)]
        history = client.get_metric_history(
            comparisons[0].run_id, f"pairs {view} cosine/man vs woman"
        )
        assert {point.step: point.value for point in history} == pytest.approx(
            dict(zip(rows["layer"], rows["cosine"], strict=True))
        )
        means = frame[frame["view"] == view].groupby("layer")["rms_z"].mean()
        history = client.get_metric_history(comparisons[0].run_id, f"mean {view}/rms_z")
        assert {point.step: point.value for point in history} == pytest.approx(means.to_dict())
    metrics = client.get_run(comparisons[0].run_id).data.metrics
    means = frame[frame["view"] == "aligned"].groupby("layer")["cosine"].mean()
    assert metrics["summary/aligned_cosine_min"] == pytest.approx(means.min())
    assert metrics["summary/aligned_cosine_min_layer"] == means.idxmin()


def test_the_overview_has_one_table_of_all_models(recorded, tmp_path):
    comparisons, client = recorded
    (overview,) = [run for run in all_runs(client) if "models" in run.info.run_name]
    path = client.download_artifacts(overview.info.run_id, "tables/compare.csv", str(tmp_path))
    table = pd.read_csv(path)
    assert len(table) == sum(len(comparison.rows) for comparison in comparisons)
    assert set(table["model"]) == {comparison.model for comparison in comparisons}


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
    assert {"by_layer.png", "pairs_by_layer_cosine.png"} <= names
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
    from neuroscope.studies import model_runs

    experiment, tracker = experiment_for(family_folder("bert")), Tracker.open()
    first = run_comparison(experiment, tracker)

    def refuse(*_, **__):
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr(model_runs, "load_model", refuse)
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


def test_a_prompt_over_the_limit_leaves_failed_runs(family_folder, database):
    tracker = Tracker.open()
    long = [{"texts": [MAN, " ".join(["cat"] * 80)]}]
    with pytest.raises(PromptError, match=r"\b64\b"):
        run_comparison(experiment_for(family_folder("bert"), prompts=long), tracker)
    assert {run.info.status for run in all_runs(MlflowClient(tracking_uri=tracker.uri))} == {
        "FAILED"
    }


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
        experiment_for(family_folder("bert"), prompts=[{"texts": texts}]), tracker
    )
    client = MlflowClient(tracking_uri=tracker.uri)
    metrics = client.get_run(comparison.run_id).data.metrics
    pairs = [name for name in metrics if name.startswith("pairs aligned cosine/")]
    assert "pairs aligned cosine/猫 vs 狗" in pairs and len(pairs) == 6
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
