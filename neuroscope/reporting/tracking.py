"""Recording the runs of studies in MLflow."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from neuroscope.errors import NeuroscopeError
from neuroscope.reporting.experiments import all_experiment_ids, ensure_experiment_id
from neuroscope.reporting.recorded import RunStatus, search_runs
from neuroscope.reporting.run import Run, description_of, description_tags
from neuroscope.reporting.run_origin import reason_of, source_tags
from neuroscope.reporting.run_owner import is_gone, this_process
from neuroscope.reporting.run_reader import FLOW_RUN_URL_TAG, KIND_TAG, RunReader
from neuroscope.reporting.tracking_errors import mlflow_errors
from neuroscope.reporting.tracking_server import check_no_outer_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

GROUP_TAG = "neuroscope.group"
"""Tag that the runs of one experiment share."""
PROCESS_TAG = "neuroscope.process"
"""Tag that names the process of an open run, so that a dead process's runs can be closed."""
FLOW_RUN_TAG = "prefect.flow_run_id"
"""Tag with the id of the Prefect flow run that recorded a run."""
_UNCLOSED = "the process ended before the run was closed"

_log = logging.getLogger("neuroscope")


class Tracker(RunReader):
    """Connection to MLflow that records runs, and reads them; threads may share it.

    >>> tracker = Tracker.open()
    >>> with tracker.run("compare", "minilm animals") as run:
    ...     run.log_points([Point("span/cosine_z", 0.5, step=2)])
    >>> tracker.find_runs("compare")[0].name
    'minilm animals'

    A run ends as FINISHED, as FAILED if the block raises an exception, or as KILLED if the block is
    interrupted.
    """

    def __init__(self, uri: str, client: "MlflowClient", tags: Mapping[str, str] = {}):
        super().__init__(uri, client)
        self._tags = dict(tags)

    @classmethod
    def open(cls, tags: Mapping[str, str] = {}) -> "Tracker":
        """Connect in order to record runs, and close the runs that dead processes left open.

        Args:
            tags: tags to set on every run.

        Raises:
            TrackingError: `connect` fails, or `MLFLOW_RUN_ID` is set.
        """
        check_no_outer_run()
        tracker = cls.connect()
        tracker.sweep()
        return tracker.tagged(tags)

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
        """Close the open runs of processes that have ended, with the status KILLED.

        A process is known to have ended if nothing holds its lock in this home folder.

        Returns:
            Ids of the closed runs.
        """
        owners = {run.data.tags.get(PROCESS_TAG, "") for run in self._open_runs({})}
        gone = [owner for owner in owners if owner and is_gone(owner)]
        return [id for owner in gone for id in self.close_runs(PROCESS_TAG, owner, "KILLED")]

    def _run_tags(
        self, kind: str, group: str, source: str, tags: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the tags of a new run."""
        own = {KIND_TAG: kind, PROCESS_TAG: this_process(), **source_tags(source)}
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

    def _open_runs(self, tags: Mapping[str, str]) -> list["MlflowRun"]:
        """Return the open runs that have the tags, of all kinds of study."""
        with mlflow_errors(self.uri):
            ids = all_experiment_ids(self._client)
            return list(search_runs(self._client, ids, tags, "RUNNING")) if ids else []
