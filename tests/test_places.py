"""Homes with unusual names, and homes that were moved or copied."""

import os
import shutil
import subprocess
import sys
from textwrap import dedent

import pytest
from mlflow import MlflowClient
from mlflow_server import free_port, serving_home
from sqlalchemy import event
from sqlalchemy.engine import Engine

from flows.environment import check_prefect, prefect_variables, prepare_environment
from flows.processes import Children
from flows.services import mlflow_service
from neuroscope.errors import NeuroscopeError, TrackingError
from neuroscope.home import create_home
from neuroscope.reporting.tracking import Tracker
from neuroscope.reporting.tracking_server import tracking_uri

NAMES = ["a#b", "a b", "a&b;c", "a'b\"c", "é日", "a@b:c+d", "$HOME", "a\\b", "~a[b]{c}"]
NAMES += ["a?b", "a%20b", "a%", "?x=%3F#"]  # each has a meaning of its own in an address
REFUSED = ["a\nb", "a\x1b", "a\x7f", os.fsdecode(b"a\xff")]


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
        assert repr(name.strip("ab")) in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_line_reports_a_refused_home_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "a\nb"))
    command = [sys.executable, "-m", "flows.cli", "version"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (NeuroscopeError.exit_code, "")
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_server_reads_and_writes_a_home_with_an_unusual_name(home_named, tmp_path, monkeypatch):
    home = home_named("a b#c'd é?e%20f")
    run_id = record(tmp_path)
    with serving_home(home) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert Tracker.open().artifact(run_id, "note.txt").read_text() == "x"
        served_id = record(tmp_path, "y")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert Tracker.open().artifact(served_id, "note.txt").read_text() == "y"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a?b", "a%20b", "a b"])
def test_the_database_of_prefect_is_in_a_home_with_an_unusual_name(name, home_named):
    home = home_named(name)
    code = """
        from prefect.settings import get_current_settings
        from sqlalchemy import make_url
        url = get_current_settings().server.database.connection_url.get_secret_value()
        print(make_url(url).database)
    """
    variables = prefect_variables(home / "prefect")
    command = [sys.executable, "-c", dedent(code)]
    printed = subprocess.check_output(command, env=os.environ | variables, text=True)
    assert printed == f"{home / 'prefect' / 'prefect.db'}\n"


def home_of(run_id, name="note.txt"):
    """Return the home in which a run's artifact is."""
    return Tracker.open().artifact(run_id, name).parents[4]


@pytest.fixture
def recorded(home_named, tmp_path):
    """Return a home and the id of a run recorded in it."""
    return home_named("former home"), record(tmp_path)


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix != ".lock"}


def test_a_moved_home_is_read_and_written_in_its_new_place(recorded, tmp_path, monkeypatch, caplog):
    home, run_id = recorded
    new_home = home.rename(tmp_path / "new home")
    home.write_text("")  # the former folder cannot be created again
    monkeypatch.setenv("NEUROSCOPE_HOME", str(new_home))
    assert home_of(run_id) == new_home
    assert [record.levelname for record in caplog.records if record.name == "neuroscope"] == [
        "WARNING"
    ]
    assert home_of(record(tmp_path, "y")) == new_home


def test_a_copied_home_leaves_the_original_alone(recorded, tmp_path, monkeypatch):
    home, run_id = recorded
    copy = shutil.copytree(home, tmp_path / "a copy")
    before = files(home)
    monkeypatch.setenv("NEUROSCOPE_HOME", str(copy))
    assert home_of(run_id) == copy
    assert home_of(record(tmp_path, "y")) == copy
    assert files(home) == before
    monkeypatch.setenv("NEUROSCOPE_HOME", str(home))
    assert home_of(run_id) == home


def test_models_follow_a_moved_home_and_artifacts_elsewhere_do_not(recorded, tmp_path, monkeypatch):
    home, run_id = recorded
    client = MlflowClient(tracking_uri=tracking_uri())
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, name="m", source_run_id=run_id)
    client.create_registered_model("r")
    client.create_model_version("r", model.artifact_location)
    chosen = (tmp_path / "chosen").as_uri()
    other = client.create_experiment("neuroscope/layers", chosen)
    new_home = home.rename(tmp_path / "new")
    monkeypatch.setenv("NEUROSCOPE_HOME", str(new_home))
    Tracker.connect()
    client = MlflowClient(tracking_uri=tracking_uri())
    location = f"{(new_home / 'artifacts').as_uri()}/compare/models/{model.model_id}/artifacts"
    assert client.get_logged_model(model.model_id).artifact_location == location
    assert client.get_model_version("r", "1").source == location
    assert client.get_experiment(other).artifact_location == chosen


@pytest.mark.slow
def test_the_folders_that_a_server_names_follow_a_moved_home(home_named, tmp_path, monkeypatch):
    home = home_named("former")
    client = MlflowClient(tracking_uri=tracking_uri())
    folder = home / "artifacts"
    client.create_experiment("neuroscope/compare", (folder / "1").as_uri())
    own = client.create_experiment("the user's own", (folder / "2").as_uri())
    run_id = record(tmp_path)
    new_home = home.rename(tmp_path / "new")
    monkeypatch.setenv("NEUROSCOPE_HOME", str(new_home))
    mlflow_service(free_port()).prepare(Children(tmp_path / "logs", os.environ, limit=60))
    client = MlflowClient(tracking_uri=tracking_uri())
    assert client.get_run(run_id).info.artifact_uri.startswith(new_home.as_uri())
    assert client.get_experiment(own).artifact_location == (new_home / "artifacts" / "2").as_uri()


def test_a_database_without_its_artifacts_keeps_those_of_the_former_home(
    recorded, home_named, monkeypatch
):
    home, run_id = recorded
    other = home_named("other")
    shutil.copy(home / "mlflow.db", other)
    assert home_of(run_id) == home


def test_a_link_to_a_home_is_no_other_home(recorded, tmp_path, monkeypatch):
    home, run_id = recorded
    link = tmp_path / "link"
    link.symlink_to(home)
    monkeypatch.setenv("NEUROSCOPE_HOME", str(link))
    assert home_of(run_id) == home


@pytest.fixture
def read_only():
    """Return a function after whose call no SQLite database can be written."""

    def refuse_writes(connection, *_):
        connection.execute("PRAGMA query_only = ON")

    yield lambda: event.listen(Engine, "connect", refuse_writes)
    event.remove(Engine, "connect", refuse_writes)


def test_a_moved_home_whose_database_is_read_only_is_refused(
    recorded, tmp_path, monkeypatch, read_only
):
    home, _ = recorded
    new_home = home.rename(tmp_path / "new")
    monkeypatch.setenv("NEUROSCOPE_HOME", str(new_home))
    read_only()
    with pytest.raises(TrackingError, match=rf"{new_home}.*read-only.*NEUROSCOPE_HOME"):
        Tracker.connect()
