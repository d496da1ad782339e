"""Connecting to MLflow, and closing the runs of processes that are gone."""

import multiprocessing
import os
import secrets
import shutil
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
from neuroscope.reporting.run_owner import is_gone, this_process
from neuroscope.reporting.run_reader import PROMPTS_TAG, RunReader
from neuroscope.reporting.tracking import PROCESS_TAG, Tracker
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


def ended_process(home):
    """Return the name of a process that has ended and recorded in a home folder."""
    (home / "processes").mkdir(exist_ok=True)
    path = home / "processes" / f"{secrets.token_hex(16)}.lock"
    path.touch()
    return f"{socket.gethostname()} 1 {path.stem}.{path.stat().st_ino}"


def test_connecting_changes_no_run(tracker, client, home):
    run_id = open_run_of(ended_process(home), client)
    RunReader.connect().find_runs("compare", status=["RUNNING"])
    assert status(client, run_id) == "RUNNING"
    Tracker.open()
    assert status(client, run_id) == "KILLED"


def test_a_live_process_is_recognised_whatever_names_and_clocks_say(tracker, client, monkeypatch):
    with tracker.run("compare", "own") as run:
        monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
        monkeypatch.setattr(time, "time", lambda: 0.0)
        assert Tracker.open().sweep() == []
        assert status(client, run.id) == "RUNNING"


@pytest.mark.parametrize("change", ["elsewhere", "copied", "earlier"])
def test_the_sweep_leaves_runs_of_other_homes_alone(change, tracker, client, home):
    owner = ended_process(home)
    if change == "elsewhere":
        shutil.rmtree(home / "processes")
    elif change == "copied":  # the lock of the live process is held in the original
        shutil.copytree(home / "processes", home / "copy")
        shutil.rmtree(home / "processes")
        (home / "copy").rename(home / "processes")
    else:  # as versions without locks wrote it
        owner = f"{socket.gethostname()} 1 12345.00"
    run_id = open_run_of(owner, client)
    assert tracker.sweep() == [] and status(client, run_id) == "RUNNING"
    client.set_terminated(run_id, "FINISHED")


def test_a_forked_process_has_a_name_of_its_own(home):
    own, (receiver, sender) = this_process(), multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: sender.send(this_process()))
    child.start()
    forked = receiver.recv()
    child.join()
    assert forked != own == this_process()
    assert is_gone(forked) and not is_gone(own)


def test_old_files_of_ended_processes_are_removed(home):
    home.mkdir()
    owners = [ended_process(home) for _ in range(2)]
    first, second = sorted((home / "processes").iterdir())
    os.utime(first, (0, 0))
    this_process()
    assert not first.exists() and second.exists()
    assert sorted(map(is_gone, owners)) == [False, True]


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
