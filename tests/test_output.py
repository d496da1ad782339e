"""Standard output belongs to the result, and losing it does not decide how a run ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows import cli
from flows.output import result_stream, results_only
from neuroscope.reporting.tracking_server import tracking_uri

COMPARE = ["compare", "the cat sits .", "the dog sits .", "--json", "--model"]
CLI = f"{sys.executable} -m flows.cli"


def statuses(uri):
    client = MlflowClient(tracking_uri=uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.status for run in client.search_runs(ids)]


def shell(command, *arguments, **environment):
    return subprocess.run(
        ["bash", "-c", f'{CLI} "$@" {command}', "bash", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.slow
def test_the_document_of_a_run_on_a_server_is_all_that_is_printed(
    family_folder, home, mlflow_server
):
    process = shell(
        "", *COMPARE, family_folder("bert"), MLFLOW_TRACKING_URI=mlflow_server.address,
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="false",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    (entry,) = json.loads(process.stdout)["runs"]
    assert entry["address"].startswith(mlflow_server.address)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["> /dev/full", ">&-"])
def test_a_lost_result_is_an_error_and_the_run_is_finished(target, family_folder, database):
    process = shell(target, *COMPARE, family_folder("bert"))
    assert process.returncode == 74, process.stderr
    assert process.stderr.count("error: ") == 1 and "Traceback" not in process.stderr
    assert statuses(tracking_uri()) == ["FINISHED"]


@pytest.mark.parametrize("target", ["> /dev/full", ">&-"])
@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"]])
def test_help_that_cannot_be_written_is_an_error(arguments, target, home):
    process = shell(target, *arguments)
    assert process.returncode == 74 and process.stderr.count("error: ") == 1
    assert not home.exists()  # without a log of an unforeseen error


@pytest.mark.slow
@pytest.mark.parametrize("target", ["2>&-", "2> /dev/full"])
def test_lost_messages_change_nothing(target, family_folder, database):
    process = shell(target, *COMPARE, family_folder("bert"))
    assert process.returncode == 0 and len(json.loads(process.stdout)["runs"]) == 1
    assert statuses(tracking_uri()) == ["FINISHED"]


@pytest.mark.slow
def test_a_reader_that_is_gone_ends_the_command_quietly(family_folder, database):
    process = shell("| true; exit ${PIPESTATUS[0]}", *COMPARE, family_folder("bert"))
    assert (process.returncode, process.stderr) == (141, "")
    assert statuses(tracking_uri()) == ["FINISHED"]


@pytest.mark.slow
def test_a_terminal_that_knows_ascii_only_gets_what_it_can_show(family_folder, database):
    prompts = ["the 猫 sits .", "the dog sits ."]
    process = shell(
        "", "compare", *prompts, "--model", family_folder("gpt2"), PYTHONIOENCODING="ascii"
    )
    assert process.returncode == 0, process.stderr
    assert "? vs dog" in process.stdout and process.stdout.isascii()
    assert statuses(tracking_uri()) == ["FINISHED"]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_complete_in_every_encoding(encoding, family_folder):
    texts = ["the 猫 sits é", "the dog sits é"]
    command = ("compare", *texts, "--json", "--no-record", "--model", family_folder("gpt2"))
    process = shell("", *command, PYTHONIOENCODING=encoding)
    (run,) = json.loads(process.stdout)["runs"]
    assert {run["rows"][0][name] for name in ("a", "b")} == {*texts}


def test_only_results_reach_stdout(capsys):
    with results_only():
        print("a library")
        print("the result", file=result_stream())
        with results_only():
            print("again", file=result_stream())
    assert capsys.readouterr() == ("the result\nagain\n", "a library\n")


def fail(*arguments, **options):
    raise ZeroDivisionError("unforeseen http://me:hunter22@host/")


@pytest.fixture
def unforeseen(monkeypatch, capsys, home):
    """Return a function that runs a command which fails unexpectedly, and returns its message."""

    def run():
        from neuroscope.studies import study

        monkeypatch.setattr(study, "study_of", fail)
        monkeypatch.setattr(sys, "argv", ["neuroscope", "compare", "the cat", "the dog"])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        assert raised.value.code == 70
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def test_an_unforeseen_error_is_one_sentence_with_the_place_of_its_traceback(unforeseen, home):
    message = unforeseen()
    (log,) = (home / "logs").iterdir()
    assert str(log) in message and "ZeroDivisionError" in message and "hunter22" not in message
    text = log.read_text(encoding="utf-8")
    assert "in fail" in text and "compare the cat the dog" in text and "hunter22" not in text


def test_a_log_goes_to_the_temporary_folder_if_the_home_cannot_be_written(unforeseen, home):
    home.mkdir()
    (home / "logs").write_text("in the way")
    log = Path(unforeseen().split("traceback is in ")[1].partition(";")[0])
    assert "ZeroDivisionError" in log.read_text(encoding="utf-8")
    log.unlink()
