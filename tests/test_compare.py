"""Complete comparisons of tiny models, recorded in a real MLflow database."""

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
from compared import BOY, MAN, WOMAN, all_runs, experiment_for
from mlflow import MlflowClient

from neuroscope import Tracker, compare, extract, load_model, run_comparison
from neuroscope.errors import ExperimentError, ModelError, PromptError, SiteError
from neuroscope.studies.compare.figures import prompt_matrix
from neuroscope.studies.compare.focus import focus_layers
from neuroscope.studies.study import load_experiment


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


def test_prompts_by_prompts_are_symmetric_and_empty_between_groups(family_folder):
    groups = [{"texts": [MAN, WOMAN]}, {"texts": ["the cat sits .", "the dog sits ."]}]
    (comparison,) = run_comparison(experiment_for(family_folder("bert"), prompts=groups))
    matrix = prompt_matrix(comparison, 1)
    value = comparison.values("cosine_z", "span")[0, 1]
    assert matrix[0, 1] == matrix[1, 0] == value and matrix.diagonal().tolist() == [1] * 4
    assert np.isnan(matrix[:2, 2:]).all()


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


@pytest.mark.usefixtures("without_figures")
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


@pytest.mark.usefixtures("without_figures")
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


@pytest.mark.usefixtures("without_figures")
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


@pytest.mark.usefixtures("without_figures")
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
