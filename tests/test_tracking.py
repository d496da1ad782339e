"""Runs that are recorded in a real MLflow database."""

import threading

import pytest
from mlflow import MlflowClient

from neuroscope.errors import ResourceError, TrackingError
from neuroscope.prompt_files import PromptFile
from neuroscope.prompts import PromptSet
from neuroscope.reporting.run import Point
from neuroscope.reporting.run_reader import FLOW_RUN_URL_TAG
from neuroscope.reporting.tracking import FLOW_RUN_TAG, Tracker


@pytest.fixture
def tracker(database):
    return Tracker.open()


@pytest.fixture
def client(tracker):
    return MlflowClient(tracking_uri=tracker.uri)


def status(client, run):
    return client.get_run(run.id).info.status


def only_run(client):
    (run,) = client.search_runs([client.get_experiment_by_name("neuroscope/compare").experiment_id])
    return run


def test_a_run_that_succeeds_is_finished(tracker, client, home):
    with tracker.run("compare", "engineer", note="why", tags={"neuroscope.model": "m"}) as run:
        assert status(client, run) == "RUNNING"
    recorded = client.get_run(run.id)
    assert recorded.info.status == "FINISHED"
    assert recorded.info.run_name == "engineer"
    assert client.get_experiment(recorded.info.experiment_id).name == "neuroscope/compare"
    assert recorded.data.tags["neuroscope.kind"] == "compare"
    assert recorded.data.tags["neuroscope.model"] == "m"
    assert recorded.data.tags["mlflow.note.content"] == "why"
    assert recorded.info.artifact_uri.startswith((home / "artifacts" / "compare").as_uri())


@pytest.mark.parametrize(
    "error, expected",
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_a_run_that_raises_ends_with_the_status_of_the_error(tracker, client, error, expected):
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
    assert only_run(client).info.status == "KILLED"


def test_an_error_is_not_hidden_by_an_error_of_mlflow(tracker, client, monkeypatch, caplog):
    def fail(*_):
        raise OSError(28, "No space left on device", "mlflow.db")

    with pytest.raises(ValueError), tracker.run("compare", "x") as run:
        monkeypatch.setattr(tracker._client, "set_terminated", fail)
        raise ValueError
    assert status(client, run) == "RUNNING"
    assert "mlflow.db" in caplog.text


def test_an_error_of_mlflow_at_the_end_is_reported(tracker, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device", "mlflow.db")

    with pytest.raises(ResourceError, match=r"mlflow\.db"), tracker.run("compare", "x"):
        monkeypatch.setattr(tracker._client, "set_terminated", fail)


def test_runs_of_one_group_share_a_tag_across_threads(tracker, client):
    ids = []

    def record(name):
        with tracker.run("compare", name, group="engineer 1") as run:
            ids.append(run.id)

    threads = [threading.Thread(target=record, args=[f"model {i}"]) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs = [client.get_run(id) for id in ids]
    assert [run.data.tags["neuroscope.group"] for run in runs] == ["engineer 1"] * 3
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not any("mlflow.parentRunId" in run.data.tags for run in runs)


def test_a_run_without_a_group_has_no_such_tag(tracker, client):
    with tracker.run("compare", "x") as run:
        pass
    assert "neuroscope.group" not in client.get_run(run.id).data.tags


def test_metrics_have_the_layer_as_their_step(tracker, client):
    with tracker.run("compare", "x") as run:
        run.log_points([Point("mean aligned/cosine", 0.5 + layer / 10, layer) for layer in (0, 3)])
        run.log_points([Point(f"many {i}", float(i), i) for i in range(1500)])
    history = client.get_metric_history(run.id, "mean aligned/cosine")
    assert {(point.step, point.value) for point in history} == {(0, 0.5), (3, 0.8)}
    assert client.get_run(run.id).data.metrics["many 1499"] == 1499


def test_params_that_are_too_long_for_mlflow_are_truncated_visibly(tracker, client):
    with tracker.run("compare", "x") as run:
        run.log_params({f"p{i}": i for i in range(150)} | {"long": "x" * 7000})
    params = client.get_run(run.id).data.params
    assert params["p149"] == "149"
    assert len(params["long"]) == 6000 and params["long"].endswith("x…")


def test_a_param_that_changes_is_refused(tracker):
    with pytest.raises(TrackingError, match="depth"), tracker.run("compare", "x") as run:
        run.log_params({"depth": 1})
        run.log_params({"depth": 2})


def test_prompts_in_memory_or_in_a_file_are_the_dataset_of_a_run(tracker, client, tmp_path):
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    for prompts in (PromptSet.of(["a", "b"]), PromptFile.open(tmp_path / "prompts.txt")):
        with tracker.run("compare", "x") as run:
            run.log_prompts(prompts, "engineer", "tables/texts.csv")
        (logged,) = client.get_run(run.id).inputs.dataset_inputs
        assert (logged.dataset.name, logged.dataset.digest) == ("engineer", prompts.digest[:8])
        assert '"tables/texts.csv"' in logged.dataset.source
        assert prompts.digest in logged.dataset.source
        assert logged.dataset.profile == '{"num_rows": 2}'


def test_files_become_artifacts_with_their_names(tracker, client, tmp_path):
    (tmp_path / "outputs" / "tables").mkdir(parents=True)
    (tmp_path / "outputs" / "tables" / "a.csv").write_text("x\n1\n")
    with tracker.run("compare", "x") as run:
        run.log_folder(tmp_path / "outputs")
    assert "tables/a.csv" in [file.path for file in client.list_artifacts(run.id, "tables")]


def test_a_flow_run_is_linked_from_the_run(database):
    address = "http://127.0.0.1:4200/runs/flow-run/7"
    tracker = Tracker.open({FLOW_RUN_TAG: "7", FLOW_RUN_URL_TAG: address})
    with tracker.run("compare", "x", note="why") as run:
        assert run.links == {"Prefect flow run": address}
    assert tracker.links(run.id) == run.links
    tags = MlflowClient(tracking_uri=tracker.uri).get_run(run.id).data.tags
    assert tags[FLOW_RUN_TAG] == "7"
    assert tags["mlflow.note.content"] == f"why\n\n[Prefect flow run]({address})"


def test_runs_of_a_flow_are_closed_by_their_tag(tracker, client):
    experiment = client.create_experiment("neuroscope/compare")
    ours, other = (
        client.create_run(experiment, tags={FLOW_RUN_TAG: flow}).info.run_id
        for flow in ("it's ours", "other")
    )
    assert tracker.close_runs(FLOW_RUN_TAG, "it's ours", "FAILED") == [ours]
    assert client.get_run(ours).info.status == "FAILED"
    assert client.get_run(other).info.status == "RUNNING"
    client.set_terminated(other, "FINISHED")


def test_a_deleted_experiment_is_refused(tracker, client):
    experiment = client.create_experiment("neuroscope/compare")
    client.delete_experiment(experiment)
    with (
        pytest.raises(TrackingError, match=rf"neuroscope/compare.*--experiment-id {experiment}"),
        tracker.run("compare", "x"),
    ):
        raise AssertionError("the block must not run")


def test_an_experiment_whose_files_are_behind_a_server_is_refused(tracker, client):
    client.create_experiment("neuroscope/compare", "mlflow-artifacts:/1")
    with (
        pytest.raises(TrackingError, match="neuroscope/compare"),
        tracker.run("compare", "x"),
    ):
        raise AssertionError("the block must not run")
