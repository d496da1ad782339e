"""Reading runs and their metrics from MLflow."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

RunStatus = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]

_PAGE = 1000  # runs per request


@dataclass(frozen=True)
class RecordedRun:
    """Run of a study that is recorded in MLflow."""

    id: str
    name: str
    kind: str
    """Kind of study, such as `compare`."""
    status: RunStatus
    started: datetime
    """Start of the run, in UTC."""
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    """Value of each metric at its last step."""
    address: str
    """URL of the run's page in MLflow's interface."""


def is_run_id(name: str) -> bool:
    """Return whether a name has the form of the id of an MLflow run.

    >>> is_run_id("minilm"), is_run_id("0123456789abcdef" * 2)
    (False, True)
    """
    return re.fullmatch("[0-9a-f]{32}", name) is not None


def record_of(run: "MlflowRun", kind: str, address: str) -> RecordedRun:
    """Return the record of an MLflow run.

    Args:
        run: MLflow run.
        kind: kind of study.
        address: URL of the run's page.
    """
    info = run.info
    started = datetime.fromtimestamp(info.start_time / 1000, UTC)
    data = run.data
    values = dict(data.tags), dict(data.params), dict(data.metrics)
    return RecordedRun(
        info.run_id, info.run_name or "", kind, info.status, started, *values, address
    )


def search_runs(
    client: "MlflowClient", experiment_ids: list[str], tags: Mapping[str, str], *status: RunStatus
) -> Iterator["MlflowRun"]:
    """Yield the runs that have all tags and one of the statuses, newest first.

    MLflow's filters cannot express every value, so each run is checked again here.
    """
    seen: set[str] = set()  # runs that are created meanwhile shift others to the next page
    for run in _pages(client, experiment_ids, _filter(tags, status)):
        matches = all(run.data.tags.get(key) == value for key, value in tags.items())
        if matches and run.info.status in status and run.info.run_id not in seen:
            seen.add(run.info.run_id)
            yield run


def metric_values(client: "MlflowClient", run_id: str, metric: str) -> dict[int, float]:
    """Return the values of a metric by step; for a repeated step, the latest value."""
    history = sorted(client.get_metric_history(run_id, metric), key=lambda point: point.timestamp)
    values = {point.step: point.value for point in history}
    return dict(sorted(values.items()))


def quoted(text: str) -> str | None:
    """Quote a text for a filter of MLflow, which has no escape character.

    Returns:
        Quoted text, or None if it contains both kinds of quotation marks.
    """
    for quote in ("'", '"'):
        if quote not in text:
            return f"{quote}{text}{quote}"
    return None


def _filter(tags: Mapping[str, str], status: tuple[RunStatus, ...]) -> str:
    """Return a filter for the part of a search that MLflow can express, without OR and lists."""
    clauses = [f"attributes.status = '{status[0]}'"] if len(status) == 1 else []
    for key, value in tags.items():
        literal = quoted(value)
        if literal is not None and "`" not in key:
            clauses.append(f"tags.`{key}` = {literal}")
    return " AND ".join(clauses)


def _pages(client: "MlflowClient", experiment_ids: list[str], filter: str) -> Iterator["MlflowRun"]:
    """Yield the runs of all pages of a search, newest first."""
    token = None
    while True:
        page = client.search_runs(
            experiment_ids,
            filter,
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return
