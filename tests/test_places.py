"""Homes with unusual names, and homes that were moved or copied."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from mlflow_server import serving_home

from flows.environment import check_prefect, prepare_environment
from neuroscope.errors import NeuroscopeError
from neuroscope.home import create_home
from neuroscope.reporting.tracking import Tracker
from neuroscope.reporting.tracking_server import SERVER_SETTINGS, server_arguments

NAMES = ["a#b", "a b", "a&b;c", "a'b\"c", "é日", "a@b:c+d", "$HOME", "a\\b", "~a[b]{c}"]
REFUSED = ["a?b", "a%20b", "a%", "a\nb", os.fsdecode(b"a\xff")]


@pytest.fixture
def home_named(tmp_path, monkeypatch, empty_database):
    """Return a function that creates a home with an empty database under a name."""

    def create(name):
        home = tmp_path / name
        home.mkdir()
        (home / "mlflow.db").write_bytes(empty_database.read_bytes())
        monkeypatch.setenv("NEUROSCOPE_HOME", str(home))
        return home

    return create


def record(tmp_path, text="x"):
    """Record a run with one artifact and return its id."""
    folder = tmp_path / "to_log"
    folder.mkdir(exist_ok=True)
    (folder / "note.txt").write_text(text)
    with Tracker.open().run("compare", "named") as run:
        run.log_folder(folder)
    return run.id


@pytest.mark.parametrize("name", NAMES)
def test_a_home_of_any_name_holds_its_database_and_artifacts(name, home_named, tmp_path):
    home = home_named(name)
    run_id = record(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "to_log"])
    artifact = Tracker.open().artifact(run_id, "note.txt")
    assert artifact.read_text() == "x"
    assert artifact.is_relative_to(home / "artifacts" / "compare")
    assert [run.id for run in Tracker.open().find_runs("compare")] == [run_id]


@pytest.mark.parametrize("name", REFUSED)
def test_a_home_whose_name_an_address_cannot_hold_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / name))
    for use in (Tracker.open, create_home, prepare_environment, check_prefect):
        with pytest.raises(NeuroscopeError, match="NEUROSCOPE_HOME") as raised:
            use()
        assert repr(re.sub(r"[a20b]", "", name)) in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_reports_a_refused_home_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "a?b"))
    command = [sys.executable, "-m", "flows.cli", "version"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (NeuroscopeError.exit_code, "")
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_server_reads_and_writes_a_home_with_an_unusual_name(home_named, tmp_path, monkeypatch):
    home = home_named("a b#c'd é")
    run_id = record(tmp_path)
    with serving_home(home) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert Tracker.open().artifact(run_id, "note.txt").read_text() == "x"
        served_id = record(tmp_path, "y")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert Tracker.open().artifact(served_id, "note.txt").read_text() == "y"


def test_the_serving_command_quotes_paths_for_the_shell(home_named, monkeypatch):
    home = home_named("a b$(c)'d;e")
    monkeypatch.setattr(sys, "executable", "/a venv/bin/python")
    arguments = shlex.split(Tracker.connect().serving_command(port=5001))
    assert arguments[len(SERVER_SETTINGS) :] == [sys.executable, *server_arguments(home, 5001)]
