"""The command line: its output, its errors and its exit codes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from rich.console import Console

from flows import cli, display, progress_bars
from neuroscope import read_activations
from neuroscope.options import Dtype, Memory, StudyKind, TokenRule, choices, unknown_choice
from neuroscope.reporting.tracking_server import tracking_uri

TWO = ["the cat sits .", "the dog sits ."]


def run_cli(*arguments, **environment):
    """Run the command line in a separate process, as a shell does."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.fixture
def refusal(monkeypatch, capsys):
    """Return a function that runs a refused command here and returns its message."""

    def run(*arguments, code=2):
        monkeypatch.setattr(sys, "argv", ["neuroscope", *arguments])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        printed = capsys.readouterr()
        assert raised.value.code == code, printed.err
        assert printed.out == ""
        return printed.err

    return run


def recorded_runs():
    client = MlflowClient(tracking_uri=tracking_uri())
    return client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()]
    )


@pytest.fixture(scope="module")
def json_comparison(tmp_path_factory, empty_database, family_folder):
    """Run `compare --json` once in a separate process; return that process and its home."""
    home = tmp_path_factory.mktemp("home")
    (home / "mlflow.db").write_bytes(empty_database.read_bytes())
    options = ["--json", "--model", str(family_folder("bert")), "--layers", "0-1"]
    return run_cli("compare", *TWO, *options, NEUROSCOPE_HOME=str(home)), home


def test_compare_prints_one_json_document(json_comparison, family_folder):
    process, _ = json_comparison
    assert process.returncode == 0, process.stderr
    (document,) = json.loads(process.stdout)["runs"]
    assert document["model"] == str(family_folder("bert")) and document["site"] == "resid_post"
    assert len(document["rows"]) == 2 * 1 * 3
    columns = {"layer", "a", "b", "view", "cosine", "mse", "cosine_z", "spearman", "rms_z"}
    assert columns <= set(document["rows"][0])
    assert (document["rows"][0]["a"], document["rows"][0]["b"]) == tuple(TWO)


def test_compare_records_a_finished_run(json_comparison, monkeypatch):
    process, home = json_comparison
    monkeypatch.setenv("NEUROSCOPE_HOME", str(home))
    run = MlflowClient(tracking_uri=tracking_uri()).get_run(
        json.loads(process.stdout)["runs"][0]["run_id"]
    )
    assert run.info.status == "FINISHED"


def test_compare_prints_a_table_and_where_its_report_is(family_folder, database):
    template = ["--template", "the {} sits .", "--fill", "cat", "--fill", "dog"]
    process = run_cli(
        "compare", *template, "--model", str(family_folder("gpt2")), "--site", "mlp_act"
    )
    assert process.returncode == 0, process.stderr
    assert "mlp_act" in process.stdout and "cat vs dog" in process.stdout
    rows = [line for line in process.stdout.splitlines() if line.split()[:1] == ["1"]]
    assert [len(row.split()) for row in rows] == [5, 5, 5]  # one per view
    (report,) = [line for line in process.stdout.splitlines() if line.startswith("Report: ")]
    assert Path(report.removeprefix("Report: ")).is_file()
    assert "neuroscope up" in process.stdout and "mlflow server" not in process.stdout


@pytest.mark.parametrize(
    "arguments, cause, remedy",
    [
        (["compare", *TWO, "--model", "nothing"], "'nothing'", "minilm"),
        (["compare", *TWO, "--site", "resid_pots"], "'resid_pots'", "resid_post"),
        (["compare", *TWO, "--layers", "99"], "layer 99", "0 to 5"),
        (["compare", *TWO, "--layers", "x"], "'x'", "'0-5'"),
        (["compare"], "prompts", "template"),
        (["compare", TWO[0]], f"'{TWO[0]}'", "two"),
        (["compare", TWO[0], " "], "prompt ''", "number 2"),
        (["compare", TWO[0], TWO[0]], f"'{TWO[0]}'", "remove"),
        (["compare", "--template", "no gap", "--fill", "a"], "'no gap'", "'{}'"),
        (["compare", *TWO, "--template", "a {}", "--fill", "b"], "listed", "template"),
        (["compare", *TWO, "--dtype", "int3"], "int3", "float32"),
        (["run", "nothing.yaml"], "nothing.yaml", "No such file"),
        (["extract", "nothing.txt", "--out", "x"], "nothing.txt", "exist"),
    ],
)
def test_bad_input_is_refused(arguments, cause, remedy, refusal, database):
    message = refusal(*arguments)
    assert cause in message and remedy in message
    assert "error: " in message.lower()
    assert [run.info.run_name for run in recorded_runs()] == []


@pytest.mark.parametrize(
    ("arguments", "name", "values"),
    [
        (["compare", *TWO, "--dtype"], "dtype", choices(Dtype)),
        (["compare", *TWO, "--memory"], "memory", choices(Memory)),
        (["extract", "nothing.txt", "--token-rule"], "token rule", choices(TokenRule)),
        (["report", "--kind"], "kind", choices(StudyKind)),
    ],
)
def test_a_value_that_is_no_choice_is_stated_once(arguments, name, values, refusal):
    message = refusal(*arguments, "float99")
    assert unknown_choice(name, "float99", values) in message
    assert message.count("float99") == 1 and "Value error" not in message


def test_a_prompt_over_the_limit_is_refused_and_leaves_no_open_run(refusal, database):
    message = refusal("compare", "cat " * 600, "a dog")
    assert all(fact in message for fact in ("602", "512", "--truncate"))
    assert {run.info.status for run in recorded_runs()} == {"FAILED"}


@pytest.mark.parametrize(
    "text, line, cause",
    [
        ("kind: compare\nname: x\nmodles: [minilm]\nmodels: [minilm]\n", 3, "'modles'"),
        ("kind: compare\n\tname: x\n", 2, "YAML"),
    ],
)
def test_a_bad_experiment_is_refused_with_file_and_line(text, line, cause, refusal, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    message = refusal("run", str(path))
    assert f"{path}, line {line}" in message and cause in message


@pytest.mark.parametrize("command", [["compare", *TWO], ["run", "experiments/cat_dog.yaml"]])
def test_mlflow_run_id_in_the_environment_is_refused(command, refusal, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    message = refusal(*command, code=69)
    assert "abc" in message and "unset MLFLOW_RUN_ID" in message


@pytest.mark.parametrize("command", [["compare", *TWO], ["run", "experiments/cat_dog.yaml"]])
def test_an_unreachable_tracking_server_is_refused(command, refusal, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    message = refusal(*command, code=69)
    assert "http://127.0.0.1:9" in message and "unset MLFLOW_TRACKING_URI" in message


def test_an_unreachable_prefect_server_is_refused(refusal, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    message = refusal("run", "experiments/cat_dog.yaml", code=69)
    assert "http://127.0.0.1:9/api" in message and "unset PREFECT_API" in message


@pytest.mark.parametrize("command", [["compare", *TWO], ["run", "experiments/cat_dog.yaml"]])
def test_a_home_that_cannot_be_created_is_refused(command, refusal, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "file" / "home"))
    message = refusal(*command)
    assert str(tmp_path / "file" / "home") in message and "set NEUROSCOPE_HOME" in message


@pytest.fixture
def run_extract(family_folder, tmp_path, monkeypatch, capsys):
    """Return a function that runs `neuroscope extract` on two prompts and returns its output."""
    (tmp_path / "prompts.txt").write_text("the cat .\na dog\n")

    def run(*options, json_document=True):
        model = ["--model", str(family_folder("llama"))]
        arguments = ["extract", str(tmp_path / "prompts.txt"), *model, *options]
        arguments += ["--json"] if json_document else []
        monkeypatch.setattr(sys, "argv", ["neuroscope", *arguments])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        captured = capsys.readouterr()
        assert raised.value.code == 0, captured.err
        return json.loads(captured.out) if json_document else captured.out

    return run


def test_extract_writes_parquet_that_pandas_reads(run_extract, tmp_path):
    out = tmp_path / "out"
    sites = ["--site", "mlp_act", "--site", "resid_post.0", "--layers", "-1"]
    summary = run_extract("--out", str(out), *sites, "--dtype", "float32")
    assert summary["sites"] == ["resid_post.0", "mlp_act.1"]
    assert (summary["prompts"], summary["computed"], summary["dtype"]) == (2, 2, "float32")
    assert summary["bytes"] == sum(path.stat().st_size for path in out.rglob("*.parquet"))
    frame = pd.read_parquet(out / "mlp_act.1")
    assert frame["prompt"].tolist() == ["0", "1"] and len(frame["values"][0]) == 48
    assert (out / "manifest.json").is_file()


def test_extract_without_a_folder_uses_the_store(run_extract, home):
    first = run_extract("--pool", "max")
    assert first["out"] == str(home / "activations" / first["key"])
    again = run_extract("--pool", "max")
    assert (again["out"], again["computed"]) == (first["out"], 0)
    assert run_extract("--pool", "first")["key"] != first["key"]
    printed = run_extract("--pool", "max", json_document=False)
    assert "2 of" in printed and first["out"] in printed


def test_extract_streams_on_request(run_extract, tmp_path):
    options = ["--site", "mlp_act", "--dtype", "float32"]
    run_extract("--out", str(tmp_path / "resident"), "--memory", "resident", *options)
    run_extract("--out", str(tmp_path / "streamed"), "--memory", "stream", *options)
    resident, streamed = (read_activations(tmp_path / name) for name in ("resident", "streamed"))
    for site in resident:
        np.testing.assert_allclose(resident[site], streamed[site], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "tpu"], "'tpu'"),
        (["--device", "cpu:0"], "'cpu:0'"),
        (["--device", "cuda:7"], "'cuda:7'"),
        (["--dtype", "int8"], "'int8'"),
        (["--memory", "disk"], "'disk'"),
        (["--attention", "flash"], "'flash'"),
        (["--budget", "0"], " 0 tokens"),
        (["--pool", "sum"], "'sum'"),
        (["--token-rule", "words"], "'words'"),
    ],
)
def test_extract_refuses_options_that_do_not_exist(refusal, tmp_path, options, message):
    (tmp_path / "prompts.txt").write_text("the cat .\n")
    arguments = ["extract", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out")]
    assert message in refusal(*arguments, *options)
    assert not (tmp_path / "out").exists()


def test_progress_without_a_terminal_shows_the_speed_of_the_last_30_seconds(monkeypatch, capsys):
    """Prompts done before a task's first report do not count, nor does a slow start."""
    now = [0.0]
    monkeypatch.setattr("flows.progress_bars.time.monotonic", lambda: now[0])
    console = Console(stderr=True, width=80, get_time=lambda: now[0])
    monkeypatch.setattr(display, "errors", console)
    with progress_bars.extraction_bar() as report:
        report("extract, 1 MB written", 60_000, 100_000)
        for second in range(1, 200):
            now[0] = float(second)
            done = second if second < 100 else 100 + 50 * (second - 100)
            report("extract, 1 MB written", 60_000 + done, 100_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "extract, 1 MB written: 60,031 of 100,000 prompts, 1.00 prompts/s"
    assert lines[-1].endswith(", 50 prompts/s")


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress_bars, "_SECONDS_PER_LINE", 0.05)
    monkeypatch.setattr(display, "errors", Console(stderr=True, width=80))
    with progress_bars.progress_bar() as report:
        report("replicate minilm", 3, 6)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert "replicate minilm: 3 of 6 steps done, 0 s" in lines
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_extract_refuses_a_folder_that_holds_files(refusal, tmp_path):
    (tmp_path / "prompts.txt").write_text("the cat .\n")
    message = refusal("extract", str(tmp_path / "prompts.txt"), "--out", str(tmp_path), code=74)
    assert str(tmp_path) in message


def test_the_command_line_imports_no_heavy_package():
    # imports determine the time that help takes, which itself depends on the machine
    script = "import sys; from flows import cli; print(*sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "transformers", "mlflow", "prefect", "pandas", "numpy", "pydantic", "rich"}
    assert heavy & set(process.stdout.split()) == set()


def test_every_command_and_option_has_help():
    from typer.main import get_command

    for name, command in get_command(cli.app).commands.items():
        for subcommand in [command, *getattr(command, "commands", {}).values()]:
            assert subcommand.help, name
            for parameter in subcommand.params:
                assert getattr(parameter, "help", None), f"{name} {parameter.name}"
