"""Recording the runs of studies in MLflow, and reading them."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.errors import NeuroscopeError
from neuroscope.options import check_choice, choices
from neuroscope.reporting.artifacts import ArtifactFolder
from neuroscope.reporting.experiments import (
    all_experiment_ids,
    ensure_experiment_id,
    find_experiment_id,
)
from neuroscope.reporting.mlflow_client import open_client
from neuroscope.reporting.mlflow_pages import charts_page, report_page, run_links, run_page
from neuroscope.reporting.recorded import (
    RecordedRun,
    RunStatus,
    metric_values,
    record_of,
    search_runs,
)
from neuroscope.reporting.run import Run, description_of, description_tags
from neuroscope.reporting.run_origin import reason_of, source_tags
from neuroscope.reporting.run_owner import is_gone, this_process
from neuroscope.reporting.tracking_errors import mlflow_errors
from neuroscope.reporting.tracking_server import (
    browser_address,
    check_no_outer_run,
    is_server,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

GROUP_TAG = "neuroscope.group"
"""Tag that the runs of one experiment share."""
PROCESS_TAG = "neuroscope.process"
"""Tag that names the process of an open run, so that a dead process's runs can be closed."""
FLOW_RUN_TAG = "prefect.flow_run_id"
"""Tag with the id of the Prefect flow run that recorded a run."""
FLOW_RUN_URL_TAG = "prefect.flow_run_url"
"""Tag with the address of that flow run."""
PROMPTS_TAG = "neuroscope.prompts_digest"
"""Tag with the digest of the prompts; runs with the same prompts can be overlaid."""
_KIND_TAG = "neuroscope.kind"
REPORT = "report.html"
"""Path of the artifact with the report of a run."""
_UNCLOSED = "the process ended before the run was closed"

_log = logging.getLogger("neuroscope")


class Tracker:
    """Connection to MLflow, which records runs and reads them.

    >>> tracker = Tracker.open()
    >>> with tracker.run("compare", "minilm animals") as run:
    ...     run.log_points([Point("span/cosine_z", 0.5, step=2)])
    >>> tracker.find_runs("compare")[0].name
    'minilm animals'

    A run ends as FINISHED, as FAILED if the block raises an exception, or as KILLED if the block is
    interrupted.
    """

    def __init__(self, uri: str, client: "MlflowClient", tags: Mapping[str, str]):
        self.uri = uri
        self._client = client
        self._tags = dict(tags)

    @classmethod
    def open(cls, tags: Mapping[str, str] | None = None) -> "Tracker":
        """Connect in order to record runs, and close the runs that dead processes left open.

        Args:
            tags: tags to set on every run.

        Raises:
            TrackingError: `connect` fails, or `MLFLOW_RUN_ID` is set.
        """
        check_no_outer_run()
        tracker = cls.connect(tags)
        tracker.sweep()
        return tracker

    @classmethod
    def connect(cls, tags: Mapping[str, str] | None = None) -> "Tracker":
        """Connect to `MLFLOW_TRACKING_URI`, or to the embedded SQLite database in the home folder.

        Runs that are already recorded are not changed.

        Args:
            tags: tags to set on every run.

        Raises:
            TrackingError: the server does not respond, or the database cannot be used.
        """
        uri = tracking_uri()
        return cls(uri, open_client(uri), tags or {})

    def tagged(self, tags: Mapping[str, str]) -> "Tracker":
        """Return a tracker that sets further tags on every run."""
        return Tracker(self.uri, self._client, self._tags | dict(tags))

    @contextlib.contextmanager
    def run(
        self,
        kind: str,
        name: str,
        *,
        group: str = "",
        source: str = "",
        tags: Mapping[str, str] | None = None,
        note: str = "",
    ) -> Iterator[Run]:
        """Open a run in the MLflow experiment `neuroscope/<kind>`; close it after the block.

        Args:
            kind: kind of study, such as `compare`.
            name: name of the run.
            group: group that the runs of one experiment share; MLflow's *Group by* shows them
                together.
            source: text of MLflow's column *Source*, such as `resid_post compare`.
            tags: tags in addition to those given to `open`.
            note: description in Markdown; `Run.describe` puts a sentence before it, and so does
                an error that ends the run.

        Yields:
            Open run, in which the block records results.

        Raises:
            TrackingError: MLflow cannot be reached or refuses the request.
            ResourceError: the disk is full.
        """
        run_tags = self._run_tags(kind, group, source or kind, tags or {})
        run = None
        try:
            run = self._create_run(kind, name, run_tags, note)
            yield run
        except BaseException as error:
            self._close_after(error, run, run_tags[PROCESS_TAG])
            raise
        run.end("FINISHED")

    def reopened(self, run_id: str, *, keep_description: bool = True) -> Run:
        """Return a run that was created earlier, in order to add to it or to close it.

        Unless `keep_description`, `describe` replaces the description instead of adding to it.

        Raises:
            TrackingError: there is no such run, or MLflow cannot be reached.
        """
        run = self._run(run_id)
        note = description_of(run.data.tags) if keep_description else ""
        return Run(self._client, self.uri, run_id, run.info.experiment_id, {}, note)

    def close_runs(
        self, tag: str, value: str, status: RunStatus, reason: str = _UNCLOSED
    ) -> list[str]:
        """Close the open runs that have a tag.

        Args:
            tag: name of the tag.
            value: value of the tag.
            status: `FAILED` or `KILLED`.
            reason: reason for the end, for the description of the runs.

        Returns:
            Ids of the closed runs.
        """
        open_runs = self._open_runs({tag: value})
        for run in open_runs:
            self.reopened(run.info.run_id).end(status, reason)
        return [run.info.run_id for run in open_runs]

    def sweep(self) -> list[str]:
        """Close the open runs of dead processes of this machine, with the status KILLED.

        Returns:
            Ids of the closed runs.
        """
        owners = {run.data.tags.get(PROCESS_TAG, "") for run in self._open_runs({})}
        gone = [owner for owner in owners if owner and is_gone(owner)]
        return [id for owner in gone for id in self.close_runs(PROCESS_TAG, owner, "KILLED")]

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

    def _run_tags(
        self, kind: str, group: str, source: str, tags: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the tags of a new run."""
        own = {_KIND_TAG: kind, PROCESS_TAG: this_process(), **source_tags(source)}
        run_tags = own | self._tags | dict(tags)
        return run_tags | {GROUP_TAG: group} if group else run_tags

    def _create_run(self, kind: str, name: str, tags: dict[str, str], note: str) -> Run:
        if FLOW_RUN_URL_TAG in tags:
            note = f"{note}\n\n[Prefect flow run]({tags[FLOW_RUN_URL_TAG]})".strip()
        described = tags | description_tags(note)
        with mlflow_errors(self.uri):
            experiment_id = ensure_experiment_id(self._client, self.uri, kind)
            info = self._client.create_run(experiment_id, tags=described, run_name=name).info
        links = self._links(info.run_id, experiment_id, tags)
        return Run(self._client, self.uri, info.run_id, experiment_id, links, note)

    def _close_after(self, error: BaseException, run: Run | None, owner: str) -> None:
        """Close the run after its block raised an error; if MLflow fails, only log a warning."""
        status: RunStatus = "FAILED" if isinstance(error, Exception) else "KILLED"
        reason = reason_of(error)
        try:
            if run is not None:
                run.end(status, reason)
            elif status == "KILLED":  # MLflow may have created the run before the interruption
                self.close_runs(PROCESS_TAG, owner, status, reason)
        except NeuroscopeError as failure:
            _log.warning("an MLflow run stays open until the next start: %s", failure)

    def _run(self, run_id: str) -> "MlflowRun":
        """Return a run of MLflow; raise TrackingError if it does not exist."""
        with mlflow_errors(self.uri, requested=f"run '{run_id}'"):
            return self._client.get_run(run_id)

    def _open_runs(self, tags: Mapping[str, str]) -> list["MlflowRun"]:
        """Return the open runs that have the tags, of all kinds of study."""
        with mlflow_errors(self.uri):
            ids = all_experiment_ids(self._client)
            return list(search_runs(self._client, ids, tags, "RUNNING")) if ids else []

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
