"""Open MLflow runs, and recording in them."""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from neuroscope.prompts import Prompts
from neuroscope.reporting.logged_models import ModelEntry, create_logged_model
from neuroscope.reporting.mlflow_pages import report_page
from neuroscope.reporting.recorded import RunStatus
from neuroscope.reporting.tables import plain_markdown
from neuroscope.reporting.tracking_errors import mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

ERROR_TAG = "neuroscope.error"
"""Tag with the reason why a run did not finish."""
_DESCRIPTION_TAG = "mlflow.note.content"
_TAG_LENGTH = 8000  # characters; MLflow refuses longer values
_POINTS = 1000  # most metric values that MLflow accepts in one request
_PARAMS = 100  # most params that MLflow accepts in one request
_PARAM_LENGTH = 6000  # characters; MLflow would cut longer values silently


@dataclass(frozen=True)
class Point:
    """Value of a metric at a step, which is the layer; None for a value of the whole run."""

    metric: str
    value: float
    step: int | None = None


def metric_names(labels: Iterable[str]) -> list[str]:
    """Return a distinct name per label that MLflow accepts as the end of a metric's name."""
    names: list[str] = []
    for label in labels:
        name = re.sub(r"[^\w. :-]", "_", label)
        while name in names:
            name += "_"
        names.append(name)
    return names


class Run:
    """Open run, which `Tracker.run` creates and closes.

    Every method raises TrackingError if MLflow cannot be reached or refuses the request, and
    ResourceError if the disk is full.
    """

    def __init__(
        self,
        client: "MlflowClient",
        uri: str,
        id: str,
        experiment_id: str,
        links: dict[str, str],
        note: str = "",
    ):
        self._client = client
        self._uri = uri
        self._note = note
        self._attached: dict[str, str] = {}
        self.id = id
        self.experiment_id = experiment_id
        self.links = links
        """Addresses of the pages that belong to the run, by their names."""

    def describe(self, sentence: str, report: str = "") -> None:
        """Put a sentence before the note in the description of the run.

        MLflow fades out all but the first lines, so the link to the report comes first.

        Args:
            sentence: sentence that says what was found.
            report: path of the artifact with the report, to which a link is added.
        """
        address = report and report_page("", self.experiment_id, self.id, report)
        parts = [f"[Open the report]({address})" if address else "", plain_markdown(sentence)]
        self.set_tags(description_tags(" · ".join(filter(None, parts)), self._note))

    def end(self, status: RunStatus, reason: str = "") -> None:
        """Close the run.

        Args:
            status: status at the end.
            reason: reason why it did not finish, for its description and the tag
                `neuroscope.error`.
        """
        try:
            if reason:
                self.set_tags({ERROR_TAG: reason[:_TAG_LENGTH]})
                self.describe(f"{status.capitalize()}: {reason}")
        finally:
            with mlflow_errors(self._uri):
                self._client.set_terminated(self.id, status)

    def delete(self) -> None:
        """Delete the run; MLflow can restore it."""
        with mlflow_errors(self._uri):
            self._client.delete_run(self.id)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings; a value that is too long for MLflow is cut and ends with an ellipsis."""
        from mlflow.entities import Param

        entries = [Param(key, _shortened(str(value))) for key, value in params.items()]
        for batch in _batches(entries, _PARAMS):
            with mlflow_errors(self._uri):
                self._client.log_batch(self.id, params=batch)

    def log_points(self, points: Sequence[Point]) -> None:
        """Record metric values.

        Record each point only once: MLflow keeps every value of a repeated step.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [
            Metric(point.metric, point.value, now, 0, **self._attached)
            if point.step is None
            else Metric(point.metric, point.value, now, point.step)
            for point in points
        ]
        for batch in _batches(entries, _POINTS):
            with mlflow_errors(self._uri):
                self._client.log_batch(self.id, metrics=batch)

    def log_prompts(self, prompts: Prompts, name: str, artifact: str) -> None:
        """Record prompts as the dataset of the run.

        Args:
            prompts: prompts, of which only the number and the digest are recorded.
            name: name of the dataset.
            artifact: path of the run's artifact that lists the prompts, such as
                `tables/prompts.csv`.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=prompts.digest[:8],
            source_type="neuroscope",
            source=json.dumps({"artifact": artifact, "sha256": prompts.digest}),
            profile=json.dumps({"num_rows": len(prompts)}),
        )
        context = InputTag("mlflow.data.context", "prompts")
        with mlflow_errors(self._uri):
            self._client.log_inputs(self.id, datasets=[DatasetInput(dataset, [context])])
        self._attached |= {"dataset_name": name, "dataset_digest": dataset.digest}

    def log_models(self, models: Sequence[ModelEntry], measured: ModelEntry | None = None) -> None:
        """Record the models that the run reads.

        Args:
            models: the models.
            measured: the one of them for which points without a layer are also recorded as metrics
                of the model; by default the only one.
        """
        from mlflow.entities import LoggedModelInput

        with mlflow_errors(self._uri):
            ids = [
                create_logged_model(self._client, self.experiment_id, self.id, model)
                for model in models
            ]
            self._client.log_inputs(self.id, models=[LoggedModelInput(id) for id in ids])
        if measured is not None or len(ids) == 1:
            self._attached["model_id"] = ids[models.index(measured) if measured else 0]

    def log_folder(self, folder: Path) -> None:
        """Record every file below a folder as an artifact with the same relative path."""
        with mlflow_errors(self._uri):
            self._client.log_artifacts(self.id, str(folder))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add tags to the run, or replace their values."""
        from mlflow.entities import RunTag

        with mlflow_errors(self._uri):
            self._client.log_batch(self.id, tags=[RunTag(*tag) for tag in tags.items()])


def description_tags(*parts: str) -> dict[str, str]:
    """Return the tag with the description of a run, from paragraphs in Markdown."""
    text = "\n\n".join(filter(None, parts))
    return {_DESCRIPTION_TAG: text[:_TAG_LENGTH]} if text else {}


def description_of(tags: Mapping[str, str]) -> str:
    """Return the description of a run in Markdown, given its tags; empty if there is none."""
    return tags.get(_DESCRIPTION_TAG, "")


def _batches(entries: list[T], size: int) -> Iterator[list[T]]:
    """Yield the entries in lists of at most `size`."""
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def _shortened(text: str) -> str:
    """Return a text cut to the length that MLflow accepts."""
    return text if len(text) <= _PARAM_LENGTH else f"{text[: _PARAM_LENGTH - 1]}…"
