"""Open MLflow runs, and recording in them."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from neuroscope.prompts import Prompts
from neuroscope.reporting.tracking_errors import mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

_POINTS = 1000  # most metric values that MLflow accepts in one request
_PARAMS = 100  # most params that MLflow accepts in one request
_PARAM_LENGTH = 6000  # characters; MLflow would cut longer values silently


@dataclass(frozen=True)
class Point:
    """Value of a metric at a step, which is the layer."""

    metric: str
    value: float
    step: int = 0


class Run:
    """Open run, which `Tracker.run` creates and closes.

    Every method raises TrackingError if MLflow cannot be reached or refuses the request, and
    ResourceError if the disk is full.
    """

    def __init__(
        self, client: "MlflowClient", uri: str, id: str, experiment_id: str, links: dict[str, str]
    ):
        self._client = client
        self._uri = uri
        self.id = id
        self.experiment_id = experiment_id
        self.links = links
        """Addresses of the pages that belong to the run, by their names."""

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
        entries = [Metric(point.metric, point.value, now, point.step) for point in points]
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

    def log_folder(self, folder: Path) -> None:
        """Record every file below a folder as an artifact with the same relative path."""
        with mlflow_errors(self._uri):
            self._client.log_artifacts(self.id, str(folder))


def _batches(entries: list[T], size: int) -> Iterator[list[T]]:
    """Yield the entries in lists of at most `size`."""
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def _shortened(text: str) -> str:
    """Return a text cut to the length that MLflow accepts."""
    return text if len(text) <= _PARAM_LENGTH else f"{text[: _PARAM_LENGTH - 1]}…"
