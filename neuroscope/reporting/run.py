"""An open MLflow run and what a study records in it."""

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

_POINTS = 1000  # metrics that MLflow accepts in one request
_PARAMS = 100  # params that MLflow accepts in one request
_PARAM_LENGTH = 6000  # characters; MLflow would cut longer values silently


@dataclass(frozen=True)
class Point:
    """One value of a metric; the step is the layer."""

    metric: str
    value: float
    step: int = 0


class Run:
    """An open run, created and closed by `Tracker.run`.

    Every method raises TrackingError if MLflow cannot be reached or refuses, and ResourceError if
    the disk is full.
    """

    def __init__(
        self, client: "MlflowClient", uri: str, id: str, experiment_id: str, links: dict[str, str]
    ):
        self._client = client
        self._uri = uri
        self.id = id
        self.experiment_id = experiment_id
        self.links = links
        """Name of a page that belongs to the run -> its address."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings; a value that is too long for MLflow is cut and ends in an ellipsis."""
        from mlflow.entities import Param

        entries = [Param(key, _shortened(str(value))) for key, value in params.items()]
        for batch in _batches(entries, _PARAMS):
            with mlflow_errors(self._uri):
                self._client.log_batch(self.id, params=batch)

    def log_points(self, points: Sequence[Point]) -> None:
        """Record metric values.

        MLflow keeps every value of a repeated step, so record each point only once.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(point.metric, point.value, now, point.step) for point in points]
        for batch in _batches(entries, _POINTS):
            with mlflow_errors(self._uri):
                self._client.log_batch(self.id, metrics=batch)

    def log_prompts(self, prompts: Prompts, name: str, artifact: str) -> None:
        """Record prompts as the run's dataset.

        Args:
            prompts: in memory or in a file; only their number and digest are recorded.
            name: of the dataset.
            artifact: path of the run's artifact that lists them, such as `tables/prompts.csv`.
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
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def _shortened(text: str) -> str:
    return text if len(text) <= _PARAM_LENGTH else f"{text[: _PARAM_LENGTH - 1]}…"
