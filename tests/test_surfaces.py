"""The same models, sites and errors on the command line, in files, in forms and in Python."""

from importlib import import_module

import numpy as np
import pytest
from mlflow import MlflowClient
from models import make_model
from registered import Register
from ruamel.yaml import YAML

import neuroscope as ns
from flows import study_flow
from neuroscope.errors import Option, PromptError
from neuroscope.reporting.tracking_server import embedded_database, tracking_uri
from neuroscope.studies.study import STUDIES, load_experiment

TWO = ["the cat sits .", "the dog sits ."]
LONG = "cat " * 600


@pytest.fixture
def registered(database, monkeypatch, tmp_path, family_folder):
    """Return a registry with two versions of `news`, the first of which is the champion."""
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts below the working directory
    register = Register(embedded_database(database.parent))
    register.point_to(str(family_folder("bert")), "news")
    register.point_to(str(make_model("bert", tmp_path / "other", seed=1)), "news")
    register.client.set_registered_model_alias("news", "champion", "1")
    return register.client


def test_a_registered_model_is_compared_by_its_alias(registered, run_json, family_folder):
    by_alias, by_number, other_version, folder = (
        run_json("compare", *TWO, "--model", name)["runs"][0]
        for name in (
            "models:/news@champion",
            "models:/news/1",
            "models:/news/2",
            family_folder("bert"),
        )
    )
    assert by_alias["model"] == "models:/news@champion"
    assert by_alias["rows"] == by_number["rows"] == folder["rows"] != other_version["rows"]


def test_the_copy_of_a_run_keeps_the_version_when_the_alias_moves(registered, run_json, tmp_path):
    first = run_json("compare", *TWO, "--model", "models:/news@champion")["runs"][0]
    registered.set_registered_model_alias("news", "champion", "2")
    client = MlflowClient(tracking_uri=tracking_uri())
    copy = client.download_artifacts(first["run_id"], "experiment.yaml", str(tmp_path))
    experiment = load_experiment(copy)
    assert experiment.models == ["models:/news/1"]
    (repeated,) = ns.run_comparison(experiment, ns.Tracker.open())
    assert repeated.notes == ()
    assert [row.cosine for row in repeated.rows] == [row["cosine"] for row in first["rows"]]


def test_logits_are_extracted_by_the_command(run_json, family_folder, tmp_path):
    folder = family_folder("gpt2", head=True)
    (tmp_path / "prompts.txt").write_text("\n".join(TWO))
    options = ["--site", "logits", "--site", "final", "--dtype", "float32", "--model", folder]
    stored = run_json("extract", tmp_path / "prompts.txt", *options)
    assert stored["sites"] == ["final.1", "logits.1"]
    expected = ns.extract(ns.load_model(str(folder), head=True), TWO, "logits")["logits"]
    values = ns.read_activations(stored["out"], "logits")["logits"]
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_a_study_reads_the_final_representation(run_json, family_folder):
    folder = family_folder("llama")
    (run,) = run_json("compare", *TWO, "--site", "final", "--model", folder)["runs"]
    acts = ns.extract(ns.load_model(str(folder)), TWO, "final", pool="none")["final"]
    assert {row["layer"] for row in run["rows"]} == {1}
    (span,) = [row["cosine"] for row in run["rows"] if row["view"] == "span"]
    cat, dog = (values[1].astype(np.float64) for values in acts)  # the token that differs
    assert span == pytest.approx(cat @ dog / np.linalg.norm(cat) / np.linalg.norm(dog), abs=1e-6)


@pytest.mark.parametrize("site", ["logits", "logits.1"])
def test_no_study_reads_logits(site, run_command, tmp_path, home):
    code, printed = run_command("compare", *TWO, "--site", site)
    assert code == 2 and "--site final" in printed.err and "vocabulary" in printed.err
    assert not home.exists()


def write_experiment_over_the_limit(path):
    """Write an experiment with a prompt that is too long for minilm."""
    data = {"kind": "compare", "name": "long", "models": ["minilm"]}
    data["prompts"] = [{"texts": [LONG, "a dog"]}]
    YAML().dump(data, path)
    return path


def test_a_remedy_is_spelled_for_its_surface(run_command, database, tmp_path, monkeypatch):
    """`truncate` is written in four ways; `attention` is in no form."""
    _, printed = run_command("compare", LONG, "a dog")
    assert "(--truncate)" in printed.err and "truncate=" not in printed.err
    path = write_experiment_over_the_limit(tmp_path / "long.yaml")
    with pytest.raises(PromptError, match=r"\(truncate=True\)"):
        ns.run_comparison(load_experiment(path), ns.Tracker.open())
    monkeypatch.setattr(study_flow, "run_as_flow", run_without_prefect)
    _, printed = run_command("run", path)
    assert "(truncate: true)" in printed.err and "--truncate" not in printed.err
    for kind in STUDIES:
        spell = study_flow.form_spelling(getattr(import_module(f"flows.{kind}"), kind).fn)
        assert spell(Option("truncate", True, "cut prompts")) == "truncate = True"
        assert spell(Option("attention", "eager", "use another")) is None


def test_a_switch_is_spelled_as_the_flag_that_turns_it_off(run_command, tmp_path):
    (tmp_path / "prompts.csv").write_text("text,topic\n" + "a cat,x\na dog,y\n" * 3)
    code, printed = run_command("layers", tmp_path / "prompts.csv")
    assert code == 2 and "'x': 3" in printed.err and "(--no-probes)" in printed.err


def test_a_comparison_without_prompts_names_the_arguments_of_the_command(run_command, home):
    code, printed = run_command("compare")
    assert code == 2 and "--template" in printed.err and "'file'" not in printed.err
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "data"),
    [(["layers", "missing.csv"], "missing.csv"), (["compare", *TWO, "--layers", "9"], "layer 9")],
)
def test_a_refused_study_creates_nothing(run_command, home, arguments, data):
    code, printed = run_command(*arguments)
    assert code == 2 and data in printed.err
    assert not home.exists()


def run_without_prefect(experiment, *_):
    """Run a study without Prefect, so that its error is raised unchanged."""
    return ns.run_comparison(experiment, ns.Tracker.open())


def test_the_store_is_listed_and_pruned_by_commands(run_json, run_command, family_folder, home):
    (home.parent / "prompts.txt").write_text("\n".join(TWO))
    stored = run_json("extract", home.parent / "prompts.txt", "--model", family_folder("bert"))
    listed = run_json("store", "list")
    (entry,) = listed["folders"]
    assert entry["folder"] == stored["out"] and entry["bytes"] == listed["bytes"] > 0
    _, printed = run_command("store", "list")
    assert "resid_post x 2" in printed.out and "bert" in printed.out

    code, printed = run_command("store", "prune")
    assert code == 2 and "--older-than 30" in printed.err and "--all" in printed.err
    assert "exclude" in run_command("store", "prune", "--all", "--older-than", "3")[1].err
    assert "-1" in run_command("store", "prune", "--older-than", "-1")[1].err
    assert run_json("store", "prune", "--older-than", "1")["removed"] == []
    pruned = run_json("store", "prune", "--all")
    assert [entry["folder"] for entry in pruned["removed"]] == [stored["out"]]
    assert pruned["bytes"] == listed["bytes"]
    assert run_json("store", "list") == {"bytes": 0, "folders": []}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["compare", "--help"],
        ["store", "list", "--help"],
        ["up", "--help"],
    ],
)
def test_help_and_version_create_nothing(arguments, run_command, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed = run_command(*arguments)
    assert code == 0 and printed.out
    assert list(tmp_path.iterdir()) == []


def test_listing_an_empty_store_creates_nothing(run_json, home):
    assert run_json("store", "list")["folders"] == []
    assert not home.exists()


CHECKED = """\
kind: {kind}
name: checked
models: [minilm]
prompts:
  {prompts}
"""


@pytest.mark.parametrize(
    ("kind", "prompts", "setting", "line", "data"),
    [
        ("compare", "- texts: [a, b]", "layers: 99", 6, "layer 99"),
        ("compare", "- texts: [a, b]", "site: mlp_act.99", 6, "layer 99"),
        ("compare", "- texts: [a, b]", "plot_layers: 99", 6, "layer 99"),
        ("compare", "- texts: [a, b]\n  - file: no.txt", "note: x", 6, "no.txt"),
        ("compare", "- {file: p.csv, text_column: x}", "note: x", 5, "text_column: text"),
        ("layers", "file: no.csv", "note: x", 5, "no.csv"),
        ("layers", "file: p.csv", "note: x", 5, "label: source"),
        ("layers", "file: p.csv", "label: x", 6, "'x'"),
        ("layers", "file: p.csv", "label: source", 6, "probes: false"),
        ("atlas", "file: p.csv", "topic: x", 6, "topic: topic"),
        ("atlas", "file: p.csv", "source: x", 6, "'x'"),
        ("atlas", "file: p.csv", "min_auroc: 0.4", 6, "0.4"),
        ("atlas", "file: p.csv", "note: x", 5, "leave_out: true"),
    ],
)
def test_a_fault_that_the_check_finds_names_the_line(
    run_command, tmp_path, kind, prompts, setting, line, data
):
    rows = [f"{letter},{letter},{letter}" for letter in "abcdefgh"]
    (tmp_path / "p.csv").write_text("\n".join(["text,source,topic", *rows]))
    path = tmp_path / "e.yaml"
    path.write_text(f"{CHECKED.format(kind=kind, prompts=prompts)}{setting}\n")
    code, printed = run_command("run", path)
    assert code == 2 and f"{path}, line {line}: " in printed.err and data in printed.err


def test_a_model_that_does_not_exist_is_reported_with_its_line(run_command, tmp_path):
    path = tmp_path / "e.yaml"
    text = CHECKED.format(kind="compare", prompts="- texts: [a, b]")
    path.write_text(text.replace("[minilm]", "\n  - minilm\n  - nothing"))
    assert f"{path}, line 5: " in run_command("run", path)[1].err
