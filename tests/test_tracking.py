"""What is recorded in MLflow, in a real database."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from mlflow import MlflowClient

from neuroscope.errors import TrackingError
from neuroscope.prompts import PromptSet
from neuroscope.reporting.tracking import (
    FLOW_RUN_TAG,
    FLOW_RUN_URL_TAG,
    PROCESS_TAG,
    Point,
    Tracker,
)
from neuroscope.reporting.tracking_server import tracking_uri


@pytest.fixture
def tracker(database):
    return Tracker.open()


@pytest.fixture
def client(tracker):
    return MlflowClient(tracking_uri=tracker.uri)


def status(client, run):
    return client.get_run(run.id).info.status


def test_a_run_that_succeeds_is_finished(tracker, client, home):
    with tracker.run("compare", "engineer", note="why", tags={"neuroscope.model": "m"}) as run:
        assert status(client, run) == "RUNNING"
    found = client.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "engineer"
    assert client.get_experiment(found.info.experiment_id).name == "neuroscope/compare"
    assert found.data.tags["neuroscope.kind"] == "compare"
    assert found.data.tags["neuroscope.model"] == "m"
    assert found.data.tags["mlflow.note.content"] == "why"
    assert found.info.artifact_uri.startswith((home / "artifacts" / "compare").as_uri())


@pytest.mark.parametrize(
    "error, expected",
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_a_run_that_breaks_ends_in_a_true_state(tracker, client, error, expected):
    with pytest.raises(error), tracker.run("compare", "x") as run:
        raise error
    assert status(client, run) == expected


def test_an_interruption_while_the_run_is_created_leaves_none_open(tracker, client, monkeypatch):
    create = tracker._client.create_run

    def interrupted(*arguments, **options):
        create(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(tracker._client, "create_run", interrupted)
    with pytest.raises(KeyboardInterrupt), tracker.run("compare", "x"):
        raise AssertionError("the block must not run")
    (run,) = client.search_runs([experiment(client)])
    assert run.info.status == "KILLED"


def test_metrics_have_the_layer_as_step(tracker, client):
    with tracker.run("compare", "x") as run:
        run.log_points([Point("mean aligned/cosine", 0.5 + layer / 10, layer) for layer in (0, 3)])
        run.log_points([Point(f"many {i}", float(i), i) for i in range(1500)])
    history = client.get_metric_history(run.id, "mean aligned/cosine")
    assert {(point.step, point.value) for point in history} == {(0, 0.5), (3, 0.8)}
    assert client.get_run(run.id).data.metrics["many 1499"] == 1499


def test_params_longer_than_mlflow_keeps_are_cut_visibly(tracker, client):
    with tracker.run("compare", "x") as run:
        run.log_params({f"p{i}": i for i in range(150)} | {"long": "x" * 7000})
    params = client.get_run(run.id).data.params
    assert params["p149"] == "149"
    assert len(params["long"]) == 6000 and params["long"].endswith("x…")


def test_prompts_are_the_runs_dataset(tracker, client):
    prompts = PromptSet.of(["a", "b"])
    with tracker.run("compare", "x") as run:
        run.log_prompts(prompts, "engineer")
    (dataset,) = client.get_run(run.id).inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("engineer", prompts.digest[:8])


def test_files_become_artifacts_under_their_names(tracker, client, tmp_path):
    (tmp_path / "made" / "tables").mkdir(parents=True)
    (tmp_path / "made" / "tables" / "a.csv").write_text("x\n1\n")
    with tracker.run("compare", "x") as run:
        run.log_folder(tmp_path / "made")
    assert "tables/a.csv" in [one.path for one in client.list_artifacts(run.id, "tables")]


def test_runs_nest_under_their_parent_also_from_threads(tracker, client):
    children = []

    def child():
        with tracker.run("compare", "child", parent=parent.id) as run:
            children.append(run)

    with tracker.run("compare", "parent") as parent:
        threads = [threading.Thread(target=child) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    tags = [client.get_run(run.id).data.tags["mlflow.parentRunId"] for run in children]
    assert tags == [parent.id] * 3
    assert {status(client, run) for run in children} == {"FINISHED"}


def test_a_flow_run_is_linked_from_the_run(database):
    address = "http://127.0.0.1:4200/runs/flow-run/7"
    tracker = Tracker.open({FLOW_RUN_TAG: "7", FLOW_RUN_URL_TAG: address})
    with tracker.run("compare", "x", note="why") as run:
        assert run.links == {"Prefect flow run": address}
    tags = MlflowClient(tracking_uri=tracker.uri).get_run(run.id).data.tags
    assert tags[FLOW_RUN_TAG] == "7"
    assert tags["mlflow.note.content"] == f"why\n\n[Prefect flow run]({address})"


def test_runs_of_a_flow_are_closed_by_their_tag(tracker, client):
    ours = client.create_run(experiment(client), tags={FLOW_RUN_TAG: "ours"}).info.run_id
    other = client.create_run(experiment(client), tags={FLOW_RUN_TAG: "other"}).info.run_id
    assert tracker.close_runs(FLOW_RUN_TAG, "ours", "FAILED") == [ours]
    assert client.get_run(ours).info.status == "FAILED"
    assert client.get_run(other).info.status == "RUNNING"
    client.set_terminated(other, "FINISHED")


def experiment(client):
    name = "neuroscope/compare"
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name)


OPEN_A_RUN = """
import sys, time
from neuroscope.reporting.tracking import Tracker
with Tracker.open().run("compare", "to be killed") as run:
    print(run.id, flush=True)
    time.sleep(60)
"""


def test_runs_of_a_killed_process_are_swept_at_the_next_start(tracker, client):
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN_A_RUN], stdout=subprocess.PIPE, text=True
    )
    with process:
        run_id = process.stdout.readline().strip()
        Tracker.open()  # the process lives: its run stays open
        assert client.get_run(run_id).info.status == "RUNNING"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    Tracker.open()
    assert client.get_run(run_id).info.status == "KILLED"


def test_the_sweep_leaves_other_machines_and_own_runs_alone(tracker, client):
    tags = {PROCESS_TAG: f"elsewhere.example 1 {time.time():.2f}"}
    elsewhere = client.create_run(experiment(client), tags=tags).info.run_id
    with tracker.run("compare", "own") as run:
        assert Tracker.open().sweep() == []
        assert status(client, run) == "RUNNING"
    assert client.get_run(elsewhere).info.status == "RUNNING"
    client.set_terminated(elsewhere, "FINISHED")


def test_a_process_id_used_again_is_another_process(tracker, client):
    import socket

    tags = {PROCESS_TAG: f"{socket.gethostname()} {os.getpid()} 12345.00"}
    reused = client.create_run(experiment(client), tags=tags).info.run_id
    assert tracker.sweep() == [reused]


def test_several_processes_open_a_new_database_at_once(home):
    command = [sys.executable, "-c", "from neuroscope import Tracker; Tracker.open()"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors


def test_mlflow_run_id_in_the_environment_is_refused(monkeypatch, home):
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    with pytest.raises(TrackingError, match=r"MLFLOW_RUN_ID is set \(abc\).*unset MLFLOW_RUN_ID"):
        Tracker.open()
    assert not (home / "mlflow.db").exists()


def test_an_unreachable_server_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(TrackingError, match=r"127.0.0.1:9 cannot be reached.*unset MLFLOW_TRACK"):
        Tracker.open()
    assert time.monotonic() - start < 30  # MLflow alone would try for minutes


def test_an_unusable_database_is_named_with_the_remedy(monkeypatch, tmp_path):
    (tmp_path / "bad.db").write_bytes(b"this is no database, however long it may be" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'bad.db'}")
    with pytest.raises(TrackingError, match=r"bad.db fails.*run again"):
        Tracker.open()


def test_the_embedded_database_is_in_the_home(home):
    assert tracking_uri() == f"sqlite:///{home / 'mlflow.db'}"


def test_the_command_to_open_a_run_names_database_and_run(tracker):
    with tracker.run("compare", "x") as run:
        pass
    command = tracker.serving_command(port=5001)
    assert f"--port 5001 --backend-store-uri '{tracker.uri}'" in command
    assert "--host 127.0.0.1" in command and "MLFLOW_DISABLE_TELEMETRY=true" in command
    expected = f"http://127.0.0.1:5001/#/experiments/{run.experiment_id}/runs/{run.id}"
    assert tracker.address(run.id, port=5001) == expected
