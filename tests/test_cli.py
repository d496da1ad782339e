"""The command line, as a user meets it."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from flows import cli
from flows.display import Pace
from neuroscope import read_activations
from neuroscope.reporting.tracking_server import tracking_uri

TWO = ["the cat sits .", "the dog sits ."]


def neuroscope(*arguments, **environment):
    """Runs the command line in a process of its own, as a shell does."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs the command line in this process; gives the message it ends with, exit code 2."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["neuroscope", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert ended.value.code == 2, printed.err
        assert printed.out == ""
        return printed.err

    return run


def runs():
    client = MlflowClient(tracking_uri=tracking_uri())
    return client.search_runs([one.experiment_id for one in client.search_experiments()])


@pytest.fixture(scope="module")
def answered(tmp_path_factory, empty_database, family_folder):
    """One `compare --json` in a process of its own: what it printed, and its home."""
    home = tmp_path_factory.mktemp("home")
    (home / "mlflow.db").write_bytes(empty_database.read_bytes())
    options = ["--json", "--model", str(family_folder("bert")), "--layers", "0-1"]
    return neuroscope("compare", *TWO, *options, NEUROSCOPE_HOME=str(home)), home


def test_compare_answers_with_one_json_document(answered, family_folder):
    done, _ = answered
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["model"] == str(family_folder("bert")) and document["site"] == "resid_post"
    assert len(document["rows"]) == 2 * 1 * 3
    asked = {"layer", "a", "b", "view", "cosine", "mse", "cosine_z", "spearman", "rms_z"}
    assert asked <= set(document["rows"][0])
    assert (document["rows"][0]["a"], document["rows"][0]["b"]) == tuple(TWO)


def test_compare_leaves_a_finished_run(answered, monkeypatch):
    done, home = answered
    monkeypatch.setenv("NEUROSCOPE_HOME", str(home))
    run = MlflowClient(tracking_uri=tracking_uri()).get_run(json.loads(done.stdout)["run_id"])
    assert run.info.status == "FINISHED"


def test_compare_prints_a_table_and_how_to_open_the_run(family_folder, database):
    template = ["--template", "the {} sits .", "--fill", "cat", "--fill", "dog"]
    done = neuroscope(
        "compare", *template, "--model", str(family_folder("gpt2")), "--site", "mlp_act"
    )
    assert done.returncode == 0, done.stderr
    assert "mlp_act" in done.stdout and "cat vs dog" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.split()[:1] == ["1"]]
    assert len(row.split()) == 9
    assert f"--backend-store-uri '{tracking_uri()}'" in done.stdout


@pytest.mark.parametrize(
    "arguments, cause, remedy",
    [
        (["compare", *TWO, "--model", "nothing"], "unknown model 'nothing'", "minilm"),
        (["compare", *TWO, "--site", "resid_pots"], "unknown site 'resid_pots'", "resid_post"),
        (["compare", *TWO, "--layers", "99"], "layer 99 does not exist", "6 layers, 0 to 5"),
        (["compare", *TWO, "--layers", "x"], "cannot read layers 'x'", "'0-5'"),
        (["compare"], "no prompts", "template"),
        (["compare", TWO[0]], "one prompt", "add another"),
        (["compare", TWO[0], " "], "blank", "give it text"),
        (["compare", TWO[0], TWO[0]], "stands there twice", "leave one out"),
        (["compare", "--template", "no gap", "--fill", "a"], "exactly once", "The engineer is a"),
        (["compare", *TWO, "--template", "a {}", "--fill", "b"], "either 'texts'", "fills"),
        (["compare", *TWO, "--dtype", "int3"], "int3", "float32"),
        (["run", "nothing.yaml"], "nothing.yaml", "No such file"),
        (["extract", "nothing.txt", "--out", "x"], "nothing.txt", "does not exist"),
    ],
)
def test_bad_input_is_refused(arguments, cause, remedy, refused, database):
    message = refused(*arguments)
    assert cause in message and remedy in message
    assert message.startswith("error: ")
    assert [run.info.run_name for run in runs()] == []


def test_a_prompt_over_the_limit_is_refused_and_leaves_no_open_run(refused, database):
    message = refused("compare", "cat " * 600, "a dog")
    assert "602 tokens long" in message and "at most 512" in message and "--truncate" in message
    assert {run.info.status for run in runs()} == {"FAILED"}


@pytest.mark.parametrize(
    "text, line, cause",
    [
        ("kind: compare\nname: x\nmodles: [minilm]\nmodels: [minilm]\n", 3, "unknown key 'modles'"),
        ("kind: compare\n\tname: x\n", 2, "not YAML"),
    ],
)
def test_a_bad_experiment_names_file_and_line(text, line, cause, refused, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    message = refused("run", str(path))
    assert f"{path}, line {line}" in message and cause in message


@pytest.mark.parametrize("command", [["compare", *TWO], ["run", "experiments/cat_dog.yaml"]])
def test_mlflow_run_id_in_the_environment_is_refused(command, refused, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    message = refused(*command)
    assert "MLFLOW_RUN_ID is set (abc)" in message and "unset MLFLOW_RUN_ID" in message


@pytest.mark.parametrize("command", [["compare", *TWO], ["run", "experiments/cat_dog.yaml"]])
def test_an_unreachable_tracking_server_is_refused(command, refused, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    message = refused(*command)
    assert (
        "http://127.0.0.1:9 cannot be reached" in message and "unset MLFLOW_TRACKING_URI" in message
    )


def test_an_unreachable_prefect_server_is_refused(refused, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    message = refused("run", "experiments/cat_dog.yaml")
    assert "http://127.0.0.1:9/api cannot be reached" in message and "unset PREFECT_API" in message


@pytest.mark.parametrize("command", [["compare", *TWO], ["run", "experiments/cat_dog.yaml"]])
def test_a_home_that_cannot_be_made_is_refused(command, refused, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "file" / "home"))
    message = refused(*command)
    assert "cannot be made" in message and "set NEUROSCOPE_HOME" in message


@pytest.fixture
def extracted(family_folder, tmp_path, monkeypatch, capsys):
    """Runs `neuroscope extract` over two prompts: what it prints, as JSON or as it is."""
    (tmp_path / "prompts.txt").write_text("the cat .\na dog\n")

    def run(*options, json_document=True):
        model = ["--model", str(family_folder("llama"))]
        arguments = ["extract", str(tmp_path / "prompts.txt"), *model, *options]
        arguments += ["--json"] if json_document else []
        monkeypatch.setattr(sys, "argv", ["neuroscope", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert ended.value.code == 0, captured.err
        return json.loads(captured.out) if json_document else captured.out

    return run


def test_extract_writes_parquet_that_pandas_reads(extracted, tmp_path):
    out = tmp_path / "out"
    sites = ["--site", "mlp_act", "--site", "resid_post.0", "--layers", "-1"]
    found = extracted("--out", str(out), *sites, "--dtype", "float32")
    assert found["sites"] == ["resid_post.0", "mlp_act.1"]
    assert (found["prompts"], found["computed"], found["dtype"]) == (2, 2, "float32")
    assert found["bytes"] == sum(path.stat().st_size for path in out.rglob("*.parquet"))
    frame = pd.read_parquet(out / "mlp_act.1")
    assert frame["prompt"].tolist() == ["0", "1"] and len(frame["values"][0]) == 48
    assert (out / "manifest.json").is_file()


def test_extract_without_a_folder_keeps_in_the_store_and_answers_from_it(extracted, home):
    first = extracted("--pool", "max")
    assert first["out"] == str(home / "activations" / first["key"])
    again = extracted("--pool", "max")
    assert (again["out"], again["computed"]) == (first["out"], 0)
    assert extracted("--pool", "first")["key"] != first["key"]
    told = extracted("--pool", "max", json_document=False)
    assert "2 of the prompts were there already" in told and first["out"] in told


def test_extract_streams_when_asked_to(extracted, tmp_path):
    options = ["--site", "mlp_act", "--dtype", "float32"]
    extracted("--out", str(tmp_path / "resident"), "--memory", "resident", *options)
    extracted("--out", str(tmp_path / "streamed"), "--memory", "stream", *options)
    one, other = (read_activations(tmp_path / name) for name in ("resident", "streamed"))
    for site in one:
        np.testing.assert_allclose(one[site], other[site], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "tpu"], "unknown device 'tpu': it is auto, cpu, cpu:4"),
        (["--device", "cpu:0"], "cpu:4 is a CPU with four threads"),
        (["--device", "cuda:7"], "device 'cuda:7' cannot be used"),
        (["--dtype", "int8"], "unknown dtype 'int8': it is one of auto, float32"),
        (["--memory", "disk"], "unknown memory 'disk': it is one of auto, resident, stream"),
        (["--attention", "flash"], "unknown attention 'flash': it is one of sdpa, eager"),
        (["--budget", "0"], "a budget of 0 tokens"),
        (["--pool", "sum"], "unknown pool 'sum'"),
        (["--token-rule", "words"], "unknown token rule 'words'"),
    ],
)
def test_extract_refuses_options_that_do_not_exist(refused, tmp_path, options, message):
    (tmp_path / "prompts.txt").write_text("the cat .\n")
    arguments = ["extract", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out")]
    assert message in refused(*arguments, *options)
    assert not (tmp_path / "out").exists()


def test_the_pace_is_that_of_the_task_at_hand(monkeypatch):
    now = iter([0.0, 10.0, 20.0, 20.0, 24.0, 60.0])
    monkeypatch.setattr("flows.display.time.monotonic", lambda: next(now))
    pace = Pace()
    assert pace.told("read prompts", 0, 100_000) == ""
    assert pace.told("read prompts", 100, 100_000) == "10 prompts/s, 2:46:30 left"
    assert pace.told("extract", 60_000, 100_000) == ""  # what was there before does not count
    assert pace.told("extract", 60_000, 100_000) == ""
    assert pace.told("extract", 62_000, 100_000) == "500 prompts/s, 1:16 left"
    assert pace.told("extract", 62_009, 100_000) == "0.25 prompts/s, 1 day, 18:12:44 left"


def test_the_pace_is_that_of_late(monkeypatch):
    """A slow start, such as of cold caches, is soon forgotten."""
    pace = Pace()
    for second in range(200):
        monkeypatch.setattr("flows.display.time.monotonic", lambda second=second: float(second))
        done = second if second < 100 else 100 + 50 * (second - 100)
        told = pace.told("extract", done, 10_000)
    assert told == "50 prompts/s, 1:39 left"


def test_extract_refuses_a_folder_that_holds_files(refused, tmp_path):
    (tmp_path / "prompts.txt").write_text("the cat .\n")
    message = refused("extract", str(tmp_path / "prompts.txt"), "--out", str(tmp_path))
    assert "is not empty: name a new folder" in message


def test_help_imports_nothing_heavy():
    # what makes it quick; the time itself depends on the machine
    script = "import sys; from flows import cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "transformers", "mlflow", "prefect", "pandas", "numpy", "pydantic", "rich"}
    assert heavy & set(done.stdout.split()) == set()


def test_every_command_and_option_is_documented():
    from typer.main import get_command

    for name, command in get_command(cli.app).commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"
