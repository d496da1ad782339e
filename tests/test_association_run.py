"""Recorded studies of associations: metrics, artifacts, JSON, several models, drift."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from associated import SETTINGS, TEMPLATES, association, planted
from drifting import drift
from html_page import HtmlPage
from masked import make_masked_model
from mlflow import MlflowClient
from models import make_model
from ruamel.yaml import YAML
from scipy.stats import permutation_test
from transformers import AutoModelForMaskedLM

import neuroscope as ns
from neuroscope import Tracker
from neuroscope.errors import ExperimentError
from neuroscope.json_text import json_text
from neuroscope.studies.association.rows import Block
from neuroscope.studies.association.study import run_association
from neuroscope.studies.association.tables import summary_table
from neuroscope.studies.drift.associations import drift_rows
from neuroscope.studies.drift.experiment import drift_experiment
from neuroscope.studies.drift.study import check
from neuroscope.studies.study import load_experiment, results_document

HOSTILE = "<script>alert('x')</script>"
STATEMENTS = [
    "the {role} is a {group} .",
    "a {group} is the {role} .",
    "is the {role} a {group} ?",
    "the old {role} was a {group} .",
    "the {group} is an old {role} .",
    "the {role} is not a {group} .",
]
ROW = {
    *("layer", "view", "role", "group_a", "group_b"),
    *("raw", "controlled", "low", "high", "p", "q", "n"),
}


@pytest.fixture
def bert(tmp_path):
    return make_model("bert", tmp_path / "bert", layers=3)


@pytest.fixture
def file(bert, tmp_path):
    """Return the file of the small experiment."""
    path = tmp_path / "planted.yaml"
    YAML().dump({**SETTINGS, "models": [str(bert)]}, path)
    return path


@pytest.mark.usefixtures("without_figures", "database")
def test_metrics_have_the_layer_as_step_and_models_can_be_overlaid(bert, tmp_path):
    other = planted(bert, tmp_path / "other")
    tracker = Tracker.open()
    results = run_association(association(bert, other), tracker)
    for result in results:
        metrics = tracker.metrics(result.run_id)
        for role in ("engineer", "nurse"):
            values = result.values("controlled", (role, "men", "women"))
            assert metrics[f"roles/{role}: men - women"] == pytest.approx(dict(enumerate(values)))
        sizes = {row.layer: row.controlled for row in result.pairs if row.view == "span"}
        assert metrics["span/men - women controlled"] == pytest.approx(sizes)
        assert metrics["summary/contrasts"] == {0: len(result.rows)} and len(metrics) <= 40
    changes = np.abs(results[1].to_frame().controlled - results[0].to_frame().controlled)
    spans = results[0].to_frame().view == "span"
    mean = changes[spans].mean()
    difference = tracker.metrics(results[1].run_id)["summary/controlled_difference"]
    assert difference == {0: pytest.approx(mean)}
    assert results.overview.headline.startswith("other differs from bert:")


@pytest.mark.usefixtures("database")
def test_artifacts_include_tables_figures_and_a_report(bert, tmp_path):
    settings = {
        "templates": [*TEMPLATES, f"the {{}} {HOSTILE} ."],
        "note": "why?",
        "groups": {HOSTILE: ["man", "boy", "king"], "women": ["woman", "girl", "queen"]},
    }
    tracker = Tracker.open()
    (result,) = run_association(association(bert, **settings), tracker)
    client = MlflowClient(tracking_uri=tracker.uri)
    client.download_artifacts(result.run_id, "", str(tmp_path / "run"))
    run = tmp_path / "run"
    table = pd.read_csv(run / "tables" / "contrasts.csv")
    pd.testing.assert_frame_equal(table, result.to_frame(), check_exact=False)
    names = {path.stem for path in (run / "tables").iterdir()}
    assert {"pairs", "neurons", "weat", "words", "word_pairs", "prompts", "tokens"} <= names
    assert "predictions" not in names  # the model has no head
    figures = {path.name for path in (run / "plots").iterdir()}
    assert {"contrast_by_layer.png", "roles.png", "roles_by_layer.png", "neurons.png"} == figures
    html = (run / "report.html").read_text(encoding="utf-8")
    page = HtmlPage(html)
    assert result.headline in page.text and "why?" in page.text and HOSTILE in page.text
    assert HOSTILE not in html  # it is escaped
    copy = load_experiment(run / "experiment.yaml")
    assert copy.templates == settings["templates"] and copy.fingerprints.models
    (again,) = run_association(copy)
    assert again.rows == result.rows
    params = client.get_run(result.run_id).data.params
    assert "templates" not in params and params["controls"] == "8"


@pytest.mark.usefixtures("database")
def test_the_command_prints_the_documented_rows(file, run_json, bert):
    document = run_json("associate", file)
    (entry,) = document["runs"]
    assert {"run_id", "model", "rows", "headline", "report"} <= set(entry)
    assert all(set(row) >= ROW for row in entry["rows"])
    assert {(row["layer"], row["view"]) for row in entry["rows"]} == {
        (layer, view) for layer in range(3) for view in ("span", "context")
    }
    assert Tracker.open().metrics(entry["run_id"])
    fewer = run_json("associate", file, "--layers", "1", "--no-record")
    assert {row["layer"] for row in fewer["runs"][0]["rows"]} == {1}
    assert fewer["runs"][0]["run_id"] is None


@pytest.mark.usefixtures("database")
def test_faults_of_the_file_name_the_line(file, run_command):
    text = file.read_text().replace(TEMPLATES[1], "no gap")
    file.write_text(text)
    line = text.splitlines().index("- no gap") + 1
    code, printed = run_command("associate", file)
    assert code == 2 and f"{file}, line {line}: " in printed.err and "'{}'" in printed.err


@pytest.mark.usefixtures("database")
def test_words_and_models_of_the_file_that_cannot_be_used_name_the_line(file, run_command):
    text = file.read_text().replace("- nurse", "- physician")
    file.write_text(text)
    line = text.splitlines().index("- physician") + 1
    code, printed = run_command("associate", file)
    assert code == 2 and f"{file}, line {line}: " in printed.err and "'physician'" in printed.err
    code, printed = run_command("associate", file, "--model", "nothing")  # not in the file
    assert code == 2 and "'nothing'" in printed.err and "line" not in printed.err


def test_the_summary_shows_each_role_and_the_pair(bert):
    (result,) = run_association(association(bert))
    table = summary_table(result)
    pairs, roles = (section.rows for section in table.sections)
    assert [row[1] for row in pairs] == [0, 1, 2]
    assert {row[0].split(":")[0] for row in roles} == {"engineer", "nurse"}
    assert result.headline in table.notes
    alone = summary_table(run_association(association(bert, roles=["nurse"]))[0])
    (section,) = alone.sections
    assert all(str(row[0]).startswith("nurse: ") for row in section.rows)


def test_results_are_valid_json_without_q_values(bert):
    settings = {"templates": TEMPLATES[:3], "control_words": []}
    results = run_association(association(bert, **settings))
    (entry,) = json.loads(json_text(results_document(results)))["runs"]
    assert {row["q"] for row in entry["rows"]} == {None}
    assert {row["p_words"] for row in entry["rows"]} == {None}


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return make_masked_model(tmp_path_factory.mktemp("masked"))


def test_predictions_are_contrasts_of_log_probabilities(masked):
    (result,) = run_association(association(masked, statements=STATEMENTS))
    (row,) = [row for row in result.predictions if row.role == "nurse"]
    model = AutoModelForMaskedLM.from_pretrained(masked).eval()
    tokenizer = ns.load_model(str(masked)).tokenizer
    controls = next(word.controls.split(", ") for word in result.words if word.word == "nurse")

    def association_of(statement, role, word):
        """Return log(p_target / p_prior) of a word."""
        words = statement.replace("{role}", role).replace("{group}", "[MASK]").split()
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(["[CLS]", *words, "[SEP]"])])
        place = words.index("[MASK]") + 1
        prior = ids.clone()
        prior[0, words.index(role) + 1] = tokenizer.convert_tokens_to_ids("[MASK]")
        with torch.no_grad():
            logs = [model(each).logits[0, place].log_softmax(0) for each in (ids, prior)]
        id = tokenizer.convert_tokens_to_ids(word)
        return float(logs[0][id] - logs[1][id])

    def raw(statement, role):
        groups = SETTINGS["groups"].values()
        men, women = (
            np.mean([association_of(statement, role, word) for word in words]) for words in groups
        )
        return men - women

    own = np.array([raw(statement, "nurse") for statement in STATEMENTS])
    others = np.array(
        [np.mean([raw(statement, control) for control in controls]) for statement in STATEMENTS]
    )
    assert row.raw == pytest.approx(own.mean(), abs=1e-4)
    assert row.controlled == pytest.approx((own - others).mean(), abs=1e-4)
    tested = permutation_test((own - others,), np.mean, permutation_type="samples")
    assert row.p == pytest.approx(tested.pvalue) and row.n == 6


def test_a_model_without_a_head_leaves_predictions_out_with_a_note(bert):
    (result,) = run_association(association(bert, statements=STATEMENTS))
    assert result.predictions == ()
    assert any("predictions were left out" in note for note in result.notes)


@pytest.fixture
def prompts(labelled):
    return labelled


def test_drift_names_the_associations_that_changed(bert, file, prompts, tmp_path):
    other = planted(bert, tmp_path / "other")
    result = drift(bert, other, prompts, associations=str(file))
    before, after = (
        run_association(association(model))[0].values("controlled", ("nurse", "men", "women"))
        for model in (bert, other)
    )
    rows = {row.layer: row for row in result.associations if row.role == "nurse"}
    for layer in range(3):
        assert rows[layer].base == pytest.approx(before[layer])
        assert rows[layer].change == pytest.approx(after[layer] - before[layer])
    most = result.associations[0]
    assert most.changed and f"'{most.role}' with men rather than women" in result.summary
    assert len(result.to_dict()["associations"]) == 6


def test_drift_without_changed_associations_says_so(bert, file, prompts, tmp_path):
    result = drift(bert, bert, prompts, associations=str(file), candidate_dtype="bfloat16")
    assert "In none of 6 associations can a change be told from chance." in result.summary
    few = YAML(typ="safe").load(file.read_text()) | {"templates": TEMPLATES[:3]}
    YAML().dump(few, file)
    result = drift(bert, bert, prompts, associations=str(file), candidate_dtype="bfloat16")
    assert "With 3 templates, changes of associations cannot be told" in result.summary


def test_contrasts_of_two_models_are_matched_by_what_they_are():
    keys = [(0, view, role, "a", "b") for view in ("span", "context") for role in ("x", "y")]
    values = np.arange(7 * 4.0).reshape(7, 4)
    base = Block(values, values, np.empty((0, 4)), keys[::-1])
    candidate = Block(values[:, :2], values[:, :2], np.empty((0, 2)), keys[:2])
    rows = {row.role: row for row in drift_rows(base, candidate, 0)}
    assert rows["x"].base == values[:, 3].mean() and rows["x"].candidate == values[:, 0].mean()
    assert rows["y"].change == pytest.approx((values[:, 1] - values[:, 2]).mean())


def test_drift_refuses_associations_that_it_cannot_measure(bert, file, prompts, tmp_path):
    deep = make_model("bert", tmp_path / "deep", layers=4)
    for candidate, associations in ((deep, file), (bert, tmp_path / "missing.yaml")):
        experiment = drift_experiment(
            str(bert), str(candidate), {"file": str(prompts)}, associations=str(associations)
        )
        with pytest.raises(ExperimentError) as raised:
            check(experiment)
        assert raised.value.keys == ("associations",)
    file.write_text(file.read_text().replace("- nurse", "- physician"))
    experiment = drift_experiment(
        str(bert), str(bert), {"file": str(prompts)}, associations=str(file)
    )
    with pytest.raises(ExperimentError) as raised:
        check(experiment)
    assert raised.value.keys == ("associations",)
    assert raised.value.problem.startswith(f"{file}, line ") and "physician" in str(raised.value)
