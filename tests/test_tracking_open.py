"""Connecting to MLflow, and closing the runs of processes that are gone."""

import os
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import unquote

import pytest
from mlflow import MlflowClient

from neuroscope.errors import TrackingError
from neuroscope.reporting.experiments import runs_pages
from neuroscope.reporting.tracking import PROCESS_TAG, PROMPTS_TAG, Tracker
from neuroscope.reporting.tracking_server import (
    tracking_uri,
)


@pytest.fixture
def tracker(database):
    return Tracker.open()


@pytest.fixture
def client(tracker):
    return MlflowClient(tracking_uri=tracker.uri)


def status(client, run_id):
    return client.get_run(run_id).info.status


def open_run_of(owner, client):
    experiment = client.create_experiment("neuroscope/compare")
    return client.create_run(experiment, tags={PROCESS_TAG: owner}).info.run_id


OPEN_A_RUN = """
import time
from neuroscope.reporting.tracking import Tracker
with Tracker.open().run("compare", "to be killed") as run:
    print(run.id, flush=True)
    time.sleep(60)
"""


def test_runs_of_a_killed_process_are_closed_at_the_next_start(tracker, client):
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN_A_RUN], stdout=subprocess.PIPE, text=True
    )
    with process:
        run_id = process.stdout.readline().strip()
        Tracker.open()  # the process is alive: its run stays open
        assert status(client, run_id) == "RUNNING"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    Tracker.open()
    assert status(client, run_id) == "KILLED"


def test_connecting_changes_no_run(tracker, client):
    run_id = open_run_of(f"{socket.gethostname()} {os.getpid()} 12345.00", client)
    Tracker.connect().find_runs("compare", status=["RUNNING"])
    assert status(client, run_id) == "RUNNING"
    Tracker.open()
    assert status(client, run_id) == "KILLED"


def test_the_sweep_leaves_other_machines_and_own_runs_alone(tracker, client):
    elsewhere = open_run_of(f"elsewhere.example 1 {time.time():.2f}", client)
    with tracker.run("compare", "own") as run:
        assert Tracker.open().sweep() == []
        assert status(client, run.id) == "RUNNING"
    assert status(client, elsewhere) == "RUNNING"
    client.set_terminated(elsewhere, "FINISHED")


def test_a_process_with_a_reused_id_is_another_process(tracker, client):
    reused = open_run_of(f"{socket.gethostname()} {os.getpid()} 12345.00", client)
    assert tracker.sweep() == [reused]


def test_several_processes_open_a_new_database_simultaneously(home):
    command = [sys.executable, "-c", "from neuroscope import Tracker; Tracker.open()"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors


def test_mlflow_run_id_in_the_environment_is_refused_for_recording_only(monkeypatch, database):
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    with pytest.raises(TrackingError, match=r"MLFLOW_RUN_ID.*abc"):
        Tracker.open()
    assert Tracker.connect().find_runs("compare") == []


def test_an_unreachable_server_is_refused_quickly(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9") as raised:
        Tracker.open()
    assert time.monotonic() - start < 30  # MLflow alone would retry for minutes
    assert "secret" not in str(raised.value)


def test_a_database_in_a_new_folder_is_created(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new' / 'a.db'}")
    Tracker.open()
    assert (tmp_path / "new" / "a.db").is_file()


def test_the_embedded_database_is_in_the_home(home):
    assert tracking_uri() == f"sqlite:///{home / 'mlflow.db'}"


def test_the_address_of_the_embedded_database_is_that_of_a_local_server(tracker):
    with tracker.run("compare", "x", tags={PROMPTS_TAG: "abc"}) as run:
        pass
    page = f"http://127.0.0.1:5001/#/experiments/{run.experiment_id}/runs"
    training = "?workflowType=machine_learning"
    assert tracker.address(run.id, port=5001) == f"{page}/{run.id}{training}"
    charts = tracker.charts_address(run.id, port=5001)
    assert charts.startswith(f"{page}{training}&compareRunsMode=CHART&searchFilter=")
    assert "'abc'" in unquote(charts)


def test_pages_of_runs_need_no_run_and_leave_out_deleted_experiments(tracker, client):
    server, kinds = "http://127.0.0.1:5001", ["compare", "layers"]
    pages = runs_pages(server, tracker.uri, kinds)
    ids = [client.get_experiment_by_name(f"neuroscope/{kind}").experiment_id for kind in kinds]
    assert pages == {
        kind: f"{server}/#/experiments/{id}/runs?workflowType=machine_learning"
        "&compareRunsMode=CHART"
        for kind, id in zip(kinds, ids, strict=True)
    }
    assert runs_pages(server, tracker.uri, kinds) == pages
    client.delete_experiment(ids[0])
    assert list(runs_pages(server, tracker.uri, kinds)) == ["layers"]
