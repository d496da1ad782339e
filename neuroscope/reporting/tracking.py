"""Records results in MLflow. The only file that imports it."""

import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope.errors import TrackingError
from neuroscope.prompts import PromptSet
from neuroscope.reporting.tracking_server import (
    artifact_location,
    check_tracking,
    one_opens,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROCESS_TAG = "neuroscope.process"
"""Tag that tells which process has a run open, so that a dead one's runs can be closed."""
FLOW_RUN_TAG = "prefect.flow_run_id"
FLOW_RUN_URL_TAG = "prefect.flow_run_url"
_NOTE_TAG = "mlflow.note.content"
_PARENT_TAG = "mlflow.parentRunId"
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow show runs with charts first, not the traces of a language application."""
_POINTS = 1000  # metrics that MLflow takes at once
_PARAMS = 100  # params that MLflow takes at once
_PARAM_LENGTH = 6000  # longer values would be cut without a word


@dataclass(frozen=True)
class Point:
    """One value of a metric; the step is the layer."""

    metric: str
    value: float
    step: int = 0


class Run:
    """One open run; made by `Tracker.run`, which closes it."""

    def __init__(self, client: "MlflowClient", id: str, experiment_id: str, links: dict[str, str]):
        self._client = client
        self.id = id
        self.experiment_id = experiment_id
        self.links = links
        """What belongs to the run -> its address in a browser."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Records settings; values longer than MLflow keeps are cut visibly."""
        from mlflow.entities import Param

        found = [Param(key, _shortened(str(value))) for key, value in params.items()]
        for start in range(0, len(found), _PARAMS):
            with _clear_errors():
                self._client.log_batch(self.id, params=found[start : start + _PARAMS])

    def log_points(self, points: Sequence[Point]) -> None:
        """Records metric values, in one go so that a repeated step leaves no double points."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        found = [Metric(point.metric, point.value, now, point.step) for point in points]
        for start in range(0, len(found), _POINTS):
            with _clear_errors():
                self._client.log_batch(self.id, metrics=found[start : start + _POINTS])

    def log_prompts(self, prompts: PromptSet, name: str) -> None:
        """Records the prompts as the run's dataset."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=prompts.digest[:8],
            source_type="neuroscope",
            source=json.dumps({"artifact": "tables/prompts.csv", "sha256": prompts.digest}),
            profile=json.dumps({"num_rows": len(prompts)}),
        )
        tag = InputTag("mlflow.data.context", "prompts")
        with _clear_errors():
            self._client.log_inputs(self.id, datasets=[DatasetInput(dataset, [tag])])

    def log_folder(self, folder: Path) -> None:
        """Records every file below a folder as an artifact, under the same names."""
        with _clear_errors():
            self._client.log_artifacts(self.id, str(folder))


class Tracker:
    """Where results are recorded, and how a person gets to see them.

    >>> tracker = Tracker.open()
    >>> with tracker.run("compare", "engineer") as run:
    ...     run.log_points([Point("cosine", 0.9, step=2)])

    The run ends FINISHED; FAILED if the block raises; KILLED if it is interrupted.
    """

    def __init__(self, uri: str, client: "MlflowClient", tags: Mapping[str, str]):
        self.uri = uri
        self._client = client
        self._tags = dict(tags)

    @classmethod
    def open(cls, tags: Mapping[str, str] | None = None) -> "Tracker":
        """Connects to `MLFLOW_TRACKING_URI`, or to the embedded SQLite database in the home.

        Runs that a dead process of this machine left open are closed first, as KILLED.

        Args:
            tags: put on every run.

        Raises:
            TrackingError: the server or database cannot be used, or `MLFLOW_RUN_ID` is set.
        """
        check_tracking()
        uri = tracking_uri()
        with _clear_errors(), one_opens(uri):
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)  # creates the tables of a new database
        tracker = cls(uri, client, tags or {})
        tracker.sweep()
        return tracker

    @contextlib.contextmanager
    def run(
        self,
        kind: str,
        name: str,
        *,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        note: str = "",
    ) -> Iterator[Run]:
        """Opens a run in the experiment `neuroscope/<kind>` and ends it in a true state.

        Args:
            kind: of study, such as `compare`.
            name: of the run.
            parent: id of the run that this one is part of.
            tags: beside those given to `open`.
            note: description, Markdown.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        own = {"neuroscope.kind": kind, PROCESS_TAG: _this_process(), **self._tags, **(tags or {})}
        if parent:
            own[_PARENT_TAG] = parent
        if FLOW_RUN_URL_TAG in own:
            note = f"{note}\n\n[Prefect flow run]({own[FLOW_RUN_URL_TAG]})".strip()
        if note:
            own[_NOTE_TAG] = note
        info, status = None, "FINISHED"
        try:
            with _clear_errors():
                experiment = self._experiment(kind)
                info = self._client.create_run(experiment, tags=own, run_name=name).info
            yield Run(self._client, info.run_id, experiment, self._links(info.run_id, experiment))
        except Exception:
            status = "FAILED"
            raise
        except BaseException:  # Ctrl-C, a signal
            status = "KILLED"
            raise
        finally:
            if info is not None:
                with _clear_errors():
                    self._client.set_terminated(info.run_id, status)
            elif status == "KILLED":  # while MLflow was creating the run: it may be there or not
                self.close_runs(PROCESS_TAG, own[PROCESS_TAG], status)

    def close_runs(self, tag: str, value: str, status: str) -> list[str]:
        """Ends the runs that are still open and carry a tag; gives their ids.

        Args:
            status: `FAILED` or `KILLED`.
        """
        closed = []
        for run in self._open_runs():
            if run.data.tags.get(tag) == value:
                with _clear_errors():
                    self._client.set_terminated(run.info.run_id, status)
                closed.append(run.info.run_id)
        return closed

    def sweep(self) -> list[str]:
        """Ends, as KILLED, the open runs of processes of this machine that are gone."""
        owners = {run.data.tags.get(PROCESS_TAG, "") for run in self._open_runs()}
        gone = [owner for owner in owners if owner and _is_gone(owner)]
        return [id for owner in gone for id in self.close_runs(PROCESS_TAG, owner, "KILLED")]

    def links(self, run_id: str) -> dict[str, str]:
        """What belongs to a run -> its address in a browser."""
        with _clear_errors():
            return self._links(run_id, self._client.get_run(run_id).info.experiment_id)

    def address(self, run_id: str, *, port: int = 5000) -> str:
        """Where a browser shows the run, once `serving_command` runs where there is one."""
        with _clear_errors():
            experiment_id = self._client.get_run(run_id).info.experiment_id
        server = self.uri if self.uri.startswith("http") else f"http://127.0.0.1:{port}"
        return _address(server, experiment_id, run_id)

    def serving_command(self, *, port: int = 5000) -> str | None:
        """The shell command that serves the embedded database; None for a server of its own."""
        if self.uri.startswith("http"):
            return None
        program = Path(sys.executable).parent / "mlflow"
        return (
            "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
            f" {program} server --host 127.0.0.1 --port {port} --backend-store-uri '{self.uri}'"
        )

    def _links(self, run_id: str, experiment_id: str) -> dict[str, str]:
        links = {}
        if self.uri.startswith("http"):  # the embedded database has no server of its own
            links["MLflow run"] = _address(self.uri, experiment_id, run_id)
        if FLOW_RUN_URL_TAG in self._tags:
            links["Prefect flow run"] = self._tags[FLOW_RUN_URL_TAG]
        return links

    def _open_runs(self) -> list[Any]:
        with _clear_errors():
            experiments = self._client.search_experiments(filter_string="name LIKE 'neuroscope/%'")
            if not experiments:
                return []
            ids = [experiment.experiment_id for experiment in experiments]
            return list(
                self._client.search_runs(
                    ids, filter_string="attributes.status = 'RUNNING'", max_results=1000
                )
            )

    def _experiment(self, kind: str) -> str:
        from mlflow.exceptions import MlflowException

        name = f"neuroscope/{kind}"
        location = None if self.uri.startswith("http") else artifact_location(kind)
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name, location, _EXPERIMENT_TAGS)
            except MlflowException:  # another process was first
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"the MLflow experiment '{name}' is in the trash: restore it with"
                f" `mlflow experiments restore --experiment-id {found.experiment_id}`"
            )
        if location and found.artifact_location.startswith("mlflow-artifacts:"):
            raise TrackingError(
                f"the MLflow experiment '{name}' keeps its files behind a server: start that server"
                " and set MLFLOW_TRACKING_URI to its address"
            )
        return str(found.experiment_id)


def _address(server: str, experiment_id: str, run_id: str) -> str:
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def _shortened(text: str) -> str:
    return text if len(text) <= _PARAM_LENGTH else text[: _PARAM_LENGTH - 1] + "…"


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """Turns what MLflow raises into one error that names the remedy."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        if not type(error).__module__.startswith(("mlflow", "requests", "urllib3", "sqlalchemy")):
            raise
        uri = tracking_uri()
        if "out-of-date" in str(error):
            remedy = f"run `mlflow db upgrade {uri}`"
        else:
            remedy = "see that the server runs and the disk is not full, then run again"
        problem = str(error).strip().splitlines()[0]
        raise TrackingError(f"MLflow at {uri} fails: {problem}; {remedy}") from error


def _this_process() -> str:
    import psutil

    process = psutil.Process()
    return f"{socket.gethostname()} {process.pid} {process.create_time():.2f}"


def _is_gone(owner: str) -> bool:
    """Whether the process that a tag names ran on this machine and is no longer there."""
    import psutil

    host, pid, started = owner.rsplit(" ", 2)
    if host != socket.gethostname():
        return False  # another machine's; it sweeps its own
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(started)) > 1
    except psutil.NoSuchProcess:
        return True
