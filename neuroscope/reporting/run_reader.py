"""Reading what studies have recorded in MLflow."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from neuroscope.options import check_choice, choices
from neuroscope.reporting.artifacts import ArtifactFolder
from neuroscope.reporting.experiments import find_experiment_id
from neuroscope.reporting.mlflow_client import open_client
from neuroscope.reporting.mlflow_pages import charts_page, report_page, run_links, run_page
from neuroscope.reporting.recorded import (
    RecordedRun,
    RunStatus,
    is_run_id,
    metric_values,
    record_of,
    search_runs,
)
from neuroscope.reporting.tracking_errors import MissingError, mlflow_errors
from neuroscope.reporting.tracking_server import browser_address, is_server, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

KIND_TAG = "neuroscope.kind"
"""Tag with the kind of study that recorded a run."""
FLOW_RUN_URL_TAG = "prefect.flow_run_url"
"""Tag with the address of the Prefect flow run that recorded a run."""
PROMPTS_TAG = "neuroscope.prompts_digest"
"""Tag with the digest of the prompts; runs with the same prompts can be overlaid."""
REPORT = "report.html"
"""Path of the artifact with the report of a run."""


class RunReader:
    """Connection to MLflow that only reads; threads may share it."""

    def __init__(self, uri: str, client: "MlflowClient"):
        self.uri = uri
        self._client = client

    @classmethod
    def connect(cls) -> Self:
        """Connect to `MLFLOW_TRACKING_URI`, or to the embedded SQLite database in the home folder.

        Raises:
            TrackingError: the server does not respond, or the database cannot be used.
        """
        uri = tracking_uri()
        return cls(uri, open_client(uri))

    def find_runs(
        self,
        kind: str,
        tags: Mapping[str, str] = {},
        *,
        status: Sequence[RunStatus] = ("FINISHED",),
    ) -> list[RecordedRun]:
        """Find the runs of a kind of study, newest first.

        Args:
            kind: kind of study, such as `compare`.
            tags: tags that a run must have, with their values.
            status: statuses that a run may have.

        Raises:
            TrackingError: MLflow cannot be reached or refuses the request.
            NeuroscopeError: a status is unknown.
        """
        for name in status:
            check_choice("status", name, choices(RunStatus))
        with mlflow_errors(self.uri):
            experiment_id = find_experiment_id(self._client, kind)
            if experiment_id is None:
                return []
            runs = search_runs(self._client, [experiment_id], tags, *status)
            return [record_of(run, kind, self._address_of(run)) for run in runs]

    def page_of(self, run: RecordedRun) -> str:
        """Return the address of a run's page; empty if no server shows it."""
        return run.address if is_server(self.uri) else ""

    def kind_of(self, run_id: str) -> str:
        """Return the kind of study of a finished run; empty if there is no such run.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        if not is_run_id(run_id):
            return ""
        with suppress(MissingError):
            run = self._run(run_id)
            if run.info.status == "FINISHED" and run.info.lifecycle_stage == "active":
                return str(run.data.tags.get(KIND_TAG, ""))
        return ""

    def metrics(self, run_id: str) -> dict[str, dict[int, float]]:
        """Return the values of a run's metrics by metric and step; of a repeated step, the latest.

        Raises:
            TrackingError: there is no such run, or MLflow cannot be reached.
        """
        with mlflow_errors(self.uri, requested=f"run '{run_id}'"):
            names = self._client.get_run(run_id).data.metrics
            return {name: metric_values(self._client, run_id, name) for name in names}

    def artifact(self, run_id: str, path: str) -> Path:
        """Return the local path of a file or folder that a run recorded.

        Artifacts of the embedded database are not copied and must not be changed. Artifacts behind
        a server are downloaded into the home folder: once if the run is closed, on every call if
        it is open.

        Args:
            run_id: id of the run.
            path: path of the artifact in the run, such as `tables/compare.csv`.

        Raises:
            TrackingError: there is no such run or artifact, or MLflow cannot be reached.
            ResourceError: the disk is full.
        """
        run = self._run(run_id)
        folder = ArtifactFolder(run.info.artifact_uri, self.uri)
        with mlflow_errors(self.uri):
            return folder.local_path(path, run_id, again=run.info.end_time is None)

    def report_location(self, run_id: str) -> str:
        """Return the location at which a browser opens a run's report: a path or a server address.

        Raises:
            TrackingError: there is no such run, or it has no report.
        """
        if not is_server(self.uri):
            return str(self.artifact(run_id, REPORT))
        run = self._run(run_id)
        with mlflow_errors(self.uri):
            ArtifactFolder(run.info.artifact_uri, self.uri).check(REPORT, run_id)
        return report_page(self._server(), run.info.experiment_id, run_id, REPORT)

    def links(self, run_id: str) -> dict[str, str]:
        """Return the addresses of the pages that belong to a run, by the names of the pages.

        The pages of MLflow are its report, the run, and the charts of all runs with the same
        prompts, in which they are overlaid. The embedded database has no pages.

        Raises:
            TrackingError: there is no such run, or MLflow cannot be reached.
        """
        run = self._run(run_id)
        return self._links(run_id, run.info.experiment_id, run.data.tags)

    def address(self, run_id: str, *, port: int = 5000) -> str:
        """Return the address of a run's page.

        Args:
            run_id: id of the run.
            port: port at which the embedded database is served; ignored if a server is used.

        Raises:
            TrackingError: there is no such run, or MLflow cannot be reached.
        """
        return self._address_of(self._run(run_id), port)

    def charts_address(self, run_id: str, *, port: int = 5000) -> str:
        """Return the address of the charts that overlay all runs with the prompts of a run.

        Arguments and errors are those of `address`.
        """
        run = self._run(run_id)
        digest = run.data.tags.get(PROMPTS_TAG, "")
        return charts_page(self._server(port), run.info.experiment_id, PROMPTS_TAG, digest)

    def _run(self, run_id: str) -> "MlflowRun":
        """Return a run of MLflow; raise TrackingError if it does not exist."""
        with mlflow_errors(self.uri, requested=f"run '{run_id}'"):
            return self._client.get_run(run_id)

    def _links(self, run_id: str, experiment_id: str, tags: Mapping[str, str]) -> dict[str, str]:
        links = {}
        if is_server(self.uri):  # no server shows the embedded database yet
            digest = tags.get(PROMPTS_TAG, "")
            links = run_links(self._server(), experiment_id, run_id, PROMPTS_TAG, digest)
        if FLOW_RUN_URL_TAG in tags:
            links["Prefect flow run"] = tags[FLOW_RUN_URL_TAG]
        return links

    def _address_of(self, run: "MlflowRun", port: int = 5000) -> str:
        return run_page(self._server(port), run.info.experiment_id, run.info.run_id)

    def _server(self, port: int = 5000) -> str:
        """Return the address of the server, or of the one that serves the embedded database."""
        return browser_address(self.uri) if is_server(self.uri) else f"http://127.0.0.1:{port}"
