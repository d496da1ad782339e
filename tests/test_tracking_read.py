"""Runs that are read from a real database and through a real server."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from neuroscope.errors import NeuroscopeError, TrackingError
from neuroscope.reporting import artifacts, recorded
from neuroscope.reporting.run import Point
from neuroscope.reporting.tracking import Tracker


@pytest.fixture
def tracker(database):
    return Tracker.open()


@pytest.fixture
def remote(mlflow_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.address)
    return Tracker.open()


def record(tracker, name="x", kind="compare", **options):
    with tracker.run(kind, name, **options) as run:
        pass
    return run.id


@pytest.fixture
def outputs(tmp_path):
    folder = tmp_path / "outputs"
    (folder / "tables").mkdir(parents=True)
    (folder / "report.html").write_text("<p>report</p>")
    (folder / "tables" / "a.csv").write_text("x\n1\n")
    (folder / "tables" / "b.csv").write_text("x\n2\n")
    return folder


def test_runs_are_found_newest_first_with_their_settings(tracker):
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    with tracker.run("compare", "older", tags={"neuroscope.model": "m"}) as run:
        run.log_params({"layers": "0,1"})
    time.sleep(0.002)  # runs are ordered by their start, in milliseconds
    newer = record(tracker, "newer")
    record(tracker, kind="drift")
    first, second = tracker.find_runs("compare")
    assert (first.id, first.name, second.name) == (newer, "newer", "older")
    assert (second.kind, second.status) == ("compare", "FINISHED")
    assert second.tags["neuroscope.model"] == "m" and second.params == {"layers": "0,1"}
    assert before <= second.started <= first.started <= datetime.now(UTC)
    assert second.started.tzinfo is UTC
    assert second.address == tracker.address(run.id)
    assert tracker.find_runs("atlas") == []


@pytest.mark.parametrize(
    "value", ["plain", "it's", 'a "b"', "both ' and \"", "x' OR tags.a = 'y", "a%", "", "100 %\n猫"]
)
@pytest.mark.parametrize("key", ["neuroscope.model", "with space", "tick`"])
def test_runs_are_found_by_any_tag(tracker, key, value):
    client = MlflowClient(tracking_uri=tracker.uri)
    experiment = client.create_experiment("neuroscope/compare")
    (expected, _, _) = (
        client.create_run(experiment, tags=tags).info.run_id
        for tags in ({key: value, "k": "1"}, {key: "other", "k": "1"}, {"k": "1"})
    )
    for run in client.search_runs([experiment]):
        client.set_terminated(run.info.run_id)
    assert [run.id for run in tracker.find_runs("compare", {key: value, "k": "1"})] == [expected]


def test_runs_are_found_by_status(tracker):
    finished = record(tracker)
    with pytest.raises(ValueError), tracker.run("compare", "x") as failed:
        raise ValueError
    with tracker.run("compare", "x") as running:
        by_status = {
            status: [run.id for run in tracker.find_runs("compare", status=[status])]
            for status in ("FINISHED", "FAILED", "RUNNING", "KILLED")
        }
        both = {run.id for run in tracker.find_runs("compare", status=("FAILED", "RUNNING"))}
    assert by_status == {
        "FINISHED": [finished],
        "FAILED": [failed.id],
        "RUNNING": [running.id],
        "KILLED": [],
    }
    assert both == {failed.id, running.id}
    with pytest.raises(NeuroscopeError, match="'DONE'"):
        tracker.find_runs("compare", status=["DONE"])


def test_every_page_of_runs_is_read(tracker, monkeypatch):
    ids = {record(tracker, tags={"k": str(number % 2)}) for number in range(7)}
    monkeypatch.setattr(recorded, "_PAGE", 2)
    assert {run.id for run in tracker.find_runs("compare")} == ids
    assert len(tracker.find_runs("compare", {"k": "1"})) == 3


def test_runs_of_a_deleted_experiment_are_not_found(tracker):
    record(tracker)
    client = MlflowClient(tracking_uri=tracker.uri)
    client.delete_experiment(client.get_experiment_by_name("neuroscope/compare").experiment_id)
    assert tracker.find_runs("compare") == []


def test_metrics_are_read_per_step(tracker):
    with tracker.run("compare", "x") as run:
        run.log_points([Point("cosine", 0.1 * layer, layer) for layer in (2, 0, 1)])
        run.log_points([Point("mean", 0.5), Point("nan", float("nan"), 3)])
    metrics = tracker.metrics(run.id)
    assert metrics["cosine"] == {0: 0.0, 1: 0.1, 2: 0.2} and list(metrics["cosine"]) == [0, 1, 2]
    assert metrics["mean"] == {0: 0.5}
    assert metrics["nan"][3] != metrics["nan"][3]


def test_the_latest_value_of_a_repeated_step_is_read(tracker):
    with tracker.run("compare", "x") as run:
        points = [
            Metric("cosine", value, timestamp, 4)
            for value, timestamp in ((0.9, 100), (0.1, 300), (2, 200))
        ]
        MlflowClient(tracking_uri=tracker.uri).log_batch(run.id, metrics=points)
    assert tracker.metrics(run.id) == {"cosine": {4: 0.1}}


def test_artifacts_of_the_database_are_not_copied(tracker, outputs, home):
    with tracker.run("compare", "x") as run:
        run.log_folder(outputs)
    table = tracker.artifact(run.id, "tables/a.csv")
    assert table.read_text() == "x\n1\n" and table.is_relative_to(home / "artifacts")
    assert sorted(path.name for path in tracker.artifact(run.id, "tables").iterdir()) == [
        "a.csv",
        "b.csv",
    ]
    assert Path(tracker.report_location(run.id)).read_text() == "<p>report</p>"
    assert not (home / "artifact_copies").exists()


@pytest.mark.parametrize("fixture", ["tracker", "remote"])
@pytest.mark.parametrize("path", ["tables/c.csv", "nothing/a.csv", "../../mlflow.db", "", "/etc"])
def test_an_unknown_artifact_is_reported(fixture, path, outputs, request):
    tracker = request.getfixturevalue(fixture)
    with tracker.run("compare", "x") as run:
        run.log_folder(outputs)
    with pytest.raises(TrackingError) as raised:
        tracker.artifact(run.id, path)
    assert f"'{path}'" in str(raised.value) and run.id in str(raised.value)


@pytest.mark.parametrize("fixture", ["tracker", "remote"])
@pytest.mark.parametrize("id", ["0" * 32, "no/run"])
def test_an_unknown_run_is_reported(fixture, id, request):
    tracker = request.getfixturevalue(fixture)
    for read in (
        tracker.metrics,
        tracker.address,
        tracker.links,
        tracker.report_location,
        lambda id: tracker.artifact(id, "report.html"),
    ):
        with pytest.raises(TrackingError, match=id):
            read(id)


def test_a_run_without_a_report_is_reported(tracker):
    run_id = record(tracker)
    with pytest.raises(TrackingError, match=rf"{run_id}.*report\.html"):
        tracker.report_location(run_id)


def test_runs_are_read_through_a_server(remote, mlflow_server, outputs, home, capsys):
    with remote.run("layers", "x", group="it's one", tags={"a.b": "1"}) as run:
        run.log_points([Point("cosine", 0.5, 3)])
        run.log_folder(outputs)
    (recorded_run,) = remote.find_runs("layers", {"neuroscope.group": "it's one", "a.b": "1"})
    assert recorded_run.id == run.id and recorded_run.address.startswith(mlflow_server.address)
    assert remote.metrics(run.id) == {"cosine": {3: 0.5}}
    table = remote.artifact(run.id, "tables/a.csv")
    assert table.read_text() == "x\n1\n" and table.is_relative_to(home / "artifact_copies")
    tables = remote.artifact(run.id, "tables")
    assert {path.name: path.read_text() for path in tables.iterdir()} == {
        "a.csv": "x\n1\n",
        "b.csv": "x\n2\n",
    }
    page, _, query = recorded_run.address.partition("?")
    assert remote.report_location(run.id) == f"{page}/artifacts/report.html?{query}"
    assert capsys.readouterr().out == ""  # MLflow would print addresses into a JSON document


def test_an_artifact_of_a_server_is_downloaded_once(remote, outputs, monkeypatch):
    with remote.run("layers", "x") as run:
        run.log_folder(outputs)
    first = remote.artifact(run.id, "report.html")

    def refuse(*_):
        raise AssertionError("the artifact was downloaded again")

    monkeypatch.setattr(artifacts.ArtifactFolder, "download", refuse)
    assert remote.artifact(run.id, "report.html") == first


def test_an_artifact_of_an_open_run_is_downloaded_every_time(remote, outputs):
    with remote.run("layers", "x") as run:
        run.log_folder(outputs)
        assert remote.artifact(run.id, "report.html").read_text() == "<p>report</p>"
        (outputs / "report.html").write_text("<p>changed</p>")
        run.log_folder(outputs)
        assert remote.artifact(run.id, "report.html").read_text() == "<p>changed</p>"


def test_an_interrupted_download_leaves_no_artifact(remote, outputs, monkeypatch, home):
    with remote.run("layers", "x") as run:
        run.log_folder(outputs)

    def interrupt(folder, files, destination):
        (destination / "report.html").write_text("<p>rep")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(artifacts.ArtifactFolder, "download", interrupt)
        with pytest.raises(KeyboardInterrupt):
            remote.artifact(run.id, "report.html")
    assert [path for path in (home / "artifact_copies").iterdir() if path.is_dir()] == []
    assert remote.artifact(run.id, "report.html").read_text() == "<p>report</p>"
