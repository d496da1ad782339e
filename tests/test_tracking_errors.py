"""Errors that a user sees when MLflow, its database, its server or the disk fails."""

import errno
import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from mlflow_server import serving
from sqlalchemy import Engine, event

from flows.processes import Children
from flows.services import mlflow_service
from neuroscope.errors import NeuroscopeError, ResourceError, TrackingError
from neuroscope.reporting import mlflow_client
from neuroscope.reporting.run import Point
from neuroscope.reporting.tracking import Tracker


def use_database(monkeypatch, path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")


def execute(database, statement):
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(statement)
        connection.commit()


def refusal(error=TrackingError, *, connect=Tracker.open):
    """Open the tracker; return the message of the error."""
    with pytest.raises(error) as raised:
        connect()
    return str(raised.value)


def test_a_file_that_is_not_a_database_is_reported(monkeypatch, tmp_path):
    (tmp_path / "bad.db").write_bytes(b"this is not a database" * 100)
    use_database(monkeypatch, tmp_path / "bad.db")
    assert str(tmp_path / "bad.db") in refusal()


def test_a_database_that_cannot_be_opened_is_reported_quickly(monkeypatch, tmp_path):
    use_database(monkeypatch, tmp_path)
    start = time.monotonic()
    assert str(tmp_path) in refusal()
    assert time.monotonic() - start < 30  # MLflow alone would retry for 100 seconds


def test_a_database_whose_folder_cannot_be_created_is_reported(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    use_database(monkeypatch, tmp_path / "file" / "a.db")
    assert str(tmp_path / "file") in refusal()


def test_a_locked_database_is_reported(monkeypatch, database):
    monkeypatch.setattr(mlflow_client, "DATABASE_TIMEOUT", 0.1)
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "locked" in refusal() and str(database) in refusal()


@pytest.mark.parametrize("unknown", ["foo://x", "mysql://host/db"])
def test_an_address_that_mlflow_cannot_use_is_reported(unknown, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", unknown)
    assert unknown in refusal()


def test_an_outdated_database_is_reported_with_its_upgrade(monkeypatch, database):
    execute(database, "UPDATE alembic_version SET version_num = '451aebb31d03'")
    message = refusal()
    assert "451aebb31d03" in message and f"mlflow db upgrade sqlite:///{database}" in message


@pytest.mark.parametrize(
    "statement, commands",
    [
        ("UPDATE alembic_version SET version_num = '451aebb31d03'", ["mlflow-upgrade"]),
        ("UPDATE alembic_version SET version_num = 'ffffffffffff'", []),
    ],
)
def test_only_outdated_tables_are_migrated(statement, commands, monkeypatch, database, tmp_path):
    execute(database, statement)
    started = []
    monkeypatch.setattr(Children, "run", lambda self, name, *command: started.append(name))
    children = Children(tmp_path / "logs", {}, limit=1)
    refusal(connect=lambda: mlflow_service(5000).prepare(children))
    assert started == commands


@pytest.mark.parametrize("statement", ["SELECT 1", "DROP TABLE webhooks"])
def test_a_database_of_a_newer_mlflow_is_reported(statement, database):
    execute(database, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    execute(database, statement)
    message = refusal()
    assert "ffffffffffff" in message and "upgrade" not in message


def test_a_read_only_database_is_reported(monkeypatch, database, tmp_path):
    monkeypatch.chdir(tmp_path)  # MLflow takes the address for a path and creates its folders
    use_database(monkeypatch, f"file:{database}?mode=ro&uri=true")
    with (
        pytest.raises(TrackingError, match=rf"{database}.*read-only"),
        Tracker.open().run("compare", "x"),
    ):
        raise AssertionError("the block must not run")


@pytest.fixture
def fill_disk():
    """Return a function after whose call no SQLite database can grow, as on a full disk."""

    def never_grow(connection, *_):
        connection.execute("PRAGMA max_page_count = 1")

    yield lambda: event.listen(Engine, "checkout", never_grow)
    event.remove(Engine, "checkout", never_grow)


def test_a_full_disk_under_the_database_is_reported(database, fill_disk):
    points = [Point(f"metric {i}" * 20, 0.5, i) for i in range(900)]
    with (
        pytest.raises(ResourceError, match=str(database)),
        Tracker.open().run("compare", "x") as run,
    ):
        fill_disk()
        run.log_points(points)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_under_the_artifacts_is_reported(code, database, tmp_path, monkeypatch):
    def fill(source, target):
        raise OSError(code, os.strerror(code), source, None, target)

    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "a.csv").write_text("x")
    monkeypatch.setattr(shutil, "copy2", fill)
    with (
        pytest.raises(ResourceError, match=r"artifacts/a\.csv"),
        Tracker.open().run("compare", "x") as run,
    ):
        run.log_folder(tmp_path / "outputs")


def test_artifacts_that_cannot_be_written_are_reported(database, home, tmp_path):
    (home / "artifacts").write_text("a file where a folder should be")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "a.csv").write_text("x")
    with (
        pytest.raises(TrackingError, match=str(home / "artifacts")),
        Tracker.open().run("compare", "x") as run,
    ):
        run.log_folder(tmp_path / "outputs")


class Refusing(BaseHTTPRequestHandler):
    """Server that is not MLflow, or denies access."""

    status = 200

    def do_GET(self):
        self.send_response(self.status)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    "status, remedy",
    [
        (403, "MLFLOW_SERVER_ALLOWED_HOSTS"),
        (401, "MLFLOW_TRACKING_USERNAME"),
        (404, "MLFLOW_TRACKING_URI"),
        (400, ""),
    ],
)
def test_a_server_that_refuses_is_reported(status, remedy, monkeypatch):
    handler = type("Handler", (Refusing,), {"status": status})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        messages = [refusal(), refusal(connect=mlflow_client.check_tracking)]
        server.shutdown()
        thread.join()
    assert all(address in message and remedy in message for message in messages)


def test_a_server_that_stops_midway_is_reported(tmp_path, empty_database, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "a.csv").write_text("x")
    with serving(tmp_path, empty_database) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        tracker = Tracker.open()
        run_id = None
        with pytest.raises(TrackingError, match=server.address), tracker.run("a", "x") as run:
            run_id = run.id
            server.stop()
            run.log_points([Point("cosine", 0.5)])
        for use in (
            lambda: run.log_params({"a": 1}),
            lambda: run.log_folder(tmp_path),
            lambda: tracker.artifact(run_id, "a.csv"),
            lambda: tracker.find_runs("a"),
            lambda: tracker.metrics(run_id),
        ):
            with pytest.raises(TrackingError, match=server.address):
                use()


def test_an_error_that_the_caller_handles_is_not_reported_as_the_cause(database):
    tracker = Tracker.open()
    try:
        raise OSError(errno.ENOSPC, "No space left on device", "elsewhere")
    except OSError:
        with pytest.raises(TrackingError, match="no-such-run"):
            tracker.metrics("no-such-run")


def test_an_error_of_neuroscope_passes_unchanged(database):
    with pytest.raises(NeuroscopeError, match="'DONE'"):
        Tracker.open().find_runs("compare", status=["DONE"])


def test_the_terminal_shows_no_traceback_of_mlflow(database, fill_disk, capfd):
    tracker = Tracker.open()
    tracker.find_runs("compare")
    fill_disk()
    note = "x" * 5000
    with pytest.raises(ResourceError), tracker.run("compare", "x", note=note):
        raise AssertionError("the block must not run")
    assert "Traceback" not in capfd.readouterr().err
