"""The comparison as a whole, on tiny models and a real MLflow database."""

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from neuroscope import Tracker, compare, extract, load_model, run_comparison
from neuroscope.errors import ExperimentError, ModelError, PromptError, SiteError
from neuroscope.experiment import Experiment, make_experiment
from neuroscope.results import model_label
from neuroscope.studies.compare_outputs import focus_layers

MAN, WOMAN, BOY = (f"the engineer is a {fill} ." for fill in ("man", "woman", "boy"))


def plan(*models, **changes):
    settings = {
        "kind": "compare",
        "name": "engineer",
        "models": [str(model) for model in models],
        "prompts": [{"template": "the engineer is a {} .", "fills": ["man", "woman", "boy"]}],
    }
    return make_experiment(settings | changes)


@pytest.fixture
def recorded(family_folder, database):
    """A comparison in two models: what it gave, and the client to look it up."""
    tracker = Tracker.open()
    experiment = plan(family_folder("bert"), family_folder("llama"), note="why")
    found = run_comparison(experiment, tracker)
    return found, MlflowClient(tracking_uri=tracker.uri)


def test_rows_are_one_for_each_layer_pair_and_view(family_folder):
    found = compare(load_model(str(family_folder("bert"))), [MAN, WOMAN, BOY])
    frame = found.to_frame()
    assert len(frame) == 2 * 3 * 3
    assert not frame.duplicated(["layer", "a", "b", "view"]).any()
    assert set(frame["view"]) == {"aligned", "span", "context"}
    assert found.pairs[0].tokens_a == 6 and found.pairs[0].jaccard == pytest.approx(5 / 7)


def test_values_are_those_of_the_activations(family_folder):
    model = load_model(str(family_folder("gpt2")))
    acts = extract(model, [MAN, WOMAN], "mlp_act", 1, pool="none", token_rule="all")
    a, b = (values.astype(float) for values in acts["mlp_act.1"])
    rows = {row.view: row for row in compare(model, [MAN, WOMAN], "mlp_act.1").rows}
    assert a.shape == b.shape  # one token replaced by one
    flat = float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
    assert rows["aligned"].cosine == pytest.approx(flat, abs=1e-6)
    assert rows["aligned"].mse == pytest.approx(((a - b) ** 2).mean(), rel=1e-5)
    ids = [tokens.ids for tokens in acts.tokens]
    at = next(i for i in range(len(a)) if ids[0][i] != ids[1][i])
    cosine = float(np.dot(a[at], b[at]) / np.linalg.norm(a[at]) / np.linalg.norm(b[at]))
    assert rows["span"].cosine == pytest.approx(cosine, abs=1e-6)
    assert rows["context"].positions == 4  # the shared words; the full stop is left out


def test_prompts_that_the_model_cannot_tell_apart_are_noted(family_folder):
    model = load_model(str(family_folder("bert")))
    found = compare(model, ["the 猫 sits .", "the 狗 sits .", "the cat sits ."])
    assert found.notes == (
        "1 of 4 words or pieces of 'the 猫 sits .' are unknown to the tokenizer: the model cannot"
        " tell them apart",
        "1 of 4 words or pieces of 'the 狗 sits .' are unknown to the tokenizer: the model cannot"
        " tell them apart",
        "'the 猫 sits .' and 'the 狗 sits .' are the same tokens to this model: there is nothing to"
        " compare",
    )
    assert compare(model, [MAN, WOMAN]).notes == ()


def test_two_prompts_are_needed(family_folder):
    model = load_model(str(family_folder("bert")))
    with pytest.raises(ExperimentError, match=r"one prompt .* at least two"):
        compare(model, [MAN])
    with pytest.raises(PromptError, match="no prompts"):
        compare(model, [])


def test_one_run_per_model_and_one_over_all_share_a_group(recorded, family_folder):
    found, client = recorded
    assert [one.model for one in found] == [
        str(family_folder("bert")),
        str(family_folder("llama")),
    ]
    runs = [client.get_run(one.run_id) for one in found]
    (group,) = {run.data.tags["neuroscope.group"] for run in runs}
    every = all_runs(client)
    assert len(every) == 3
    assert {run.data.tags["neuroscope.group"] for run in every} == {group}
    assert {run.info.status for run in every} == {"FINISHED"}
    assert {run.data.tags["mlflow.note.content"] for run in every} == {"why"}
    assert runs[0].data.tags["neuroscope.model"] == found[0].model
    assert len(runs[0].data.tags["neuroscope.model_sha"]) == 64
    assert runs[0].data.params["layers"] == "0,1" and runs[0].data.params["site"] == "resid_post"
    assert runs[0].inputs.dataset_inputs[0].dataset.name == "engineer"


def test_metrics_are_the_rows_with_step_as_layer(recorded):
    found, client = recorded
    frame = found[0].to_frame()
    for view in ("aligned", "span", "context"):
        rows = frame[(frame["view"] == view) & (frame["a"] == MAN) & (frame["b"] == WOMAN)]
        history = client.get_metric_history(found[0].run_id, f"pairs {view} cosine/man vs woman")
        assert {point.step: point.value for point in history} == pytest.approx(
            dict(zip(rows["layer"], rows["cosine"], strict=True))
        )
        means = frame[frame["view"] == view].groupby("layer")["rms_z"].mean()
        history = client.get_metric_history(found[0].run_id, f"mean {view}/rms_z")
        assert {point.step: point.value for point in history} == pytest.approx(means.to_dict())
    metrics = client.get_run(found[0].run_id).data.metrics
    means = frame[frame["view"] == "aligned"].groupby("layer")["cosine"].mean()
    assert metrics["summary/aligned_cosine_min"] == pytest.approx(means.min())
    assert metrics["summary/aligned_cosine_min_layer"] == means.idxmin()


def test_the_run_over_several_models_has_their_means(recorded):
    found, client = recorded
    models = {one.run_id for one in found}
    (overview,) = [run for run in all_runs(client) if run.info.run_id not in models]
    frame = found[1].to_frame()
    means = frame[frame["view"] == "span"].groupby("layer")["cosine"].mean()
    name = model_label(found[1].model)
    history = client.get_metric_history(overview.info.run_id, f"mean span/cosine/{name}")
    assert {point.step: point.value for point in history} == pytest.approx(means.to_dict())
    assert "tables" in {file.path for file in client.list_artifacts(overview.info.run_id)}


def test_one_model_has_one_run(family_folder, database):
    tracker = Tracker.open()
    (single,) = run_comparison(plan(family_folder("bert")), tracker)
    (run,) = all_runs(MlflowClient(tracking_uri=tracker.uri))
    assert run.info.run_id == single.run_id


def test_artifacts_hold_all_that_a_reader_needs(recorded, tmp_path):
    found, client = recorded
    folder = tmp_path / "artifacts"
    folder.mkdir()
    client.download_artifacts(found[0].run_id, "", str(folder))
    table = pd.read_csv(folder / "tables" / "comparison.csv")
    pd.testing.assert_frame_equal(table, found[0].to_frame(), check_exact=False)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert {"fingerprint", "attention", "dtype", "padding_side", "token_rule"} <= set(provenance)
    again = Experiment.model_validate(yaml.safe_load((folder / "experiment.yaml").read_text()))
    assert again.pairs() == [(MAN, WOMAN), (MAN, BOY), (WOMAN, BOY)]
    values = pd.read_parquet(folder / "activations" / "resid_post.1")
    assert len(values) == sum(len(tokens) for tokens in extract_tokens(found[0].model))
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


def test_a_second_run_reads_the_kept_activations(family_folder, database, monkeypatch):
    from neuroscope.studies import compare as study

    experiment, tracker = plan(family_folder("bert")), Tracker.open()
    first = run_comparison(experiment, tracker)

    def refuse(*_, **__):
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr(study, "load_model", refuse)
    assert run_comparison(experiment, tracker)[0].rows == first[0].rows


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_any_executor_gives_the_same(kind, family_folder, database):
    experiment, tracker = plan(family_folder("bert")), Tracker.open()
    inline = run_comparison(experiment, tracker)[0]
    made = {
        "threads": lambda: ThreadPoolExecutor(4),
        "processes": lambda: ProcessPoolExecutor(1, mp_context=get_context("spawn")),
    }[kind]
    with made() as executor:
        assert run_comparison(experiment, tracker, executor)[0].rows == inline.rows


def test_progress_tells_every_step(family_folder, database):
    told = []
    run_comparison(
        plan(family_folder("bert")), Tracker.open(), progress=lambda *step: told.append(step)
    )
    name = family_folder("bert").name
    assert list(dict.fromkeys(task for task, _, _ in told)) == [
        f"extract {name}",
        f"compare {name} resid_post.0",
        f"compare {name} resid_post.1",
        f"report {name}",
    ]
    assert told[-1][1:] == (4, 4)


def test_reference_figures_stand_beside_the_measured_ones(family_folder, database, tmp_path):
    model = str(family_folder("bert"))
    pair = {"a": MAN, "b": WOMAN, "cosine": 0.9480, "mse": 0.0540}
    reference = {"model": model, "site": "resid_post.1", "source": "a book", "pairs": [pair]}
    tracker = Tracker.open()
    (found,) = run_comparison(plan(model, published=reference), tracker)
    text = report_text(tracker, found, tmp_path)
    row = next(row for row in found.rows if (row.layer, row.view) == (1, "aligned"))
    assert f"Cosine Similarity: {row.cosine:.4f} (published 0.9480)" in text
    assert f"Mean Squared Error: {row.mse:.4f} (published 0.0540)" in text


def test_reference_figures_of_another_model_do_not_apply(family_folder, database, tmp_path):
    pair = {"a": MAN, "b": WOMAN, "cosine": 0.9480, "mse": 0.0540}
    reference = {"model": "bert-base-uncased", "site": "resid_post.5", "source": "a book"}
    tracker = Tracker.open()
    experiment = plan(family_folder("bert"), published=reference | {"pairs": [pair]})
    text = report_text(tracker, run_comparison(experiment, tracker)[0], tmp_path)
    assert "hold for bert-base-uncased at resid_post.5; they do not apply to" in text
    assert "0.9480" not in text


def report_text(tracker, found, folder):
    client = MlflowClient(tracking_uri=tracker.uri)
    client.download_artifacts(found.run_id, "report.txt", str(folder))
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
def test_what_does_not_exist_opens_no_run(changes, error, family_folder, database):
    tracker = Tracker.open()
    with pytest.raises(error):
        run_comparison(plan(family_folder("bert"), **changes), tracker)
    assert all_runs(MlflowClient(tracking_uri=tracker.uri)) == []


def test_a_prompt_over_the_limit_leaves_failed_runs(family_folder, database):
    tracker = Tracker.open()
    long = [{"texts": [MAN, " ".join(["cat"] * 80)]}]
    with pytest.raises(PromptError, match="at most 64"):
        run_comparison(plan(family_folder("bert"), prompts=long), tracker)
    assert {run.info.status for run in all_runs(MlflowClient(tracking_uri=tracker.uri))} == {
        "FAILED"
    }


def test_prompts_that_read_alike_are_compared_without_a_difference_figure(
    family_folder, database, tmp_path
):
    # the tokenizer drops the white space in which the two differ
    tracker = Tracker.open()
    alike = [{"texts": ["the cat .", "the  cat ."]}]
    (found,) = run_comparison(plan(family_folder("bert"), prompts=alike), tracker)
    aligned = [row for row in found.rows if row.view == "aligned"]
    assert [row.cosine for row in aligned] == pytest.approx([1, 1])
    assert [row.mse for row in aligned] == pytest.approx([0, 0])
    assert all(np.isnan(row.cosine) for row in found.rows if row.view == "span")
    plots = MlflowClient(tracking_uri=tracker.uri).list_artifacts(found.run_id, "plots")
    assert not [one.path for one in plots if "difference" in one.path]


def test_metric_names_stay_apart_where_letters_are_unusual(family_folder, database):
    texts = ["the 猫 .", "the 狗 .", "the a/b .", "the a_b ."]
    tracker = Tracker.open()
    (found,) = run_comparison(plan(family_folder("bert"), prompts=[{"texts": texts}]), tracker)
    client = MlflowClient(tracking_uri=tracker.uri)
    metrics = client.get_run(found.run_id).data.metrics
    pairs = [name for name in metrics if name.startswith("pairs aligned cosine/")]
    assert "pairs aligned cosine/猫 vs 狗" in pairs and len(pairs) == 6
    assert all(len(client.get_metric_history(found.run_id, name)) == 2 for name in pairs)


def test_layers_to_draw_that_are_not_compared_are_refused():
    with pytest.raises(SiteError, match=r"plot layers '1' are none of those compared \(3, 4\)"):
        focus_layers(plan("minilm", plot_layers="1"), (3, 4))


@pytest.mark.parametrize(
    "layers, choice, expected",
    [
        (range(12), "middle", (5,)),  # the 6th of 12
        (range(6), "middle", (2,)),
        ((4,), "middle", (4,)),
        (range(6), "0,-1", (0, 5)),
    ],
)
def test_layers_that_are_drawn(layers, choice, expected):
    assert focus_layers(plan("minilm", plot_layers=choice), tuple(layers)) == expected
