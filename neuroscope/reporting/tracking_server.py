"""Which MLflow is used: a server, or the embedded database; and whether it answers."""

import contextlib
import logging
import os
from collections.abc import Iterator

from neuroscope.errors import TrackingError
from neuroscope.home import create_home, home


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the embedded SQLite database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def check_tracking() -> None:
    """Looks, before work is done, whether results can be recorded.

    Raises:
        TrackingError: the server does not answer, or `MLFLOW_RUN_ID` is set, which would nest
            every run wrongly.
    """
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        raise TrackingError(
            f"MLFLOW_RUN_ID is set ({run_id}): MLflow would put results into that run."
            " Run `unset MLFLOW_RUN_ID` first"
        )
    _check_reachable(tracking_uri())


def artifact_location(kind: str) -> str:
    """Where the embedded database keeps the files of a kind of study, as a URI."""
    return (home() / "artifacts" / kind).as_uri()


@contextlib.contextmanager
def one_opens(uri: str) -> Iterator[None]:
    """One process at a time opens an SQLite database: two that create its tables would fail."""
    if not uri.startswith("sqlite:"):
        yield
        return
    from filelock import FileLock

    with FileLock(create_home() / "mlflow.lock"), _quiet_migrations():
        yield


def _check_reachable(uri: str) -> None:
    """Asks once, where MLflow itself would try again for minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if not uri.startswith("http"):
        return
    import httpx

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    try:
        answer = httpx.get(
            f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search",
            params={"max_results": 1},
            timeout=10,
        )
    except httpx.HTTPError as error:
        raise TrackingError(
            f"the tracking server {uri} cannot be reached ({error}): start it, or unset"
            " MLFLOW_TRACKING_URI to use the embedded database"
        ) from error
    if answer.status_code == 403:
        raise TrackingError(
            f"the tracking server {uri} answers 403 Forbidden: its MLFLOW_SERVER_ALLOWED_HOSTS"
            " must name this host"
        )


@contextlib.contextmanager
def _quiet_migrations() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow.store.db.utils")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
