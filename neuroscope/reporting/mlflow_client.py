"""Connection to MLflow that fails quickly, quietly and with a clear error."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from neuroscope.reporting.moved_home import follow_home
from neuroscope.reporting.tracking_errors import mlflow_errors, schema_errors
from neuroscope.reporting.tracking_server import (
    DATABASE_TIMEOUT,
    check_no_outer_run,
    check_reachable,
    is_server,
    is_sqlite,
    opened_alone,
    sqlite_file,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # MLflow's default retries for minutes
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout may be a JSON document
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Environment variables of MLflow, set unless the user has set them."""


def check_tracking() -> None:
    """Check that results can be recorded, before any work is done.

    Raises:
        TrackingError: the server does not respond, or refuses the login, or `MLFLOW_RUN_ID` is set.
    """
    check_no_outer_run()
    if is_server(uri := tracking_uri()):
        open_client(uri)


def open_client(uri: str) -> "MlflowClient":
    """Connect to a server or database; create the tables of a new database.

    In a home that was moved or copied, the addresses of the artifacts are corrected.

    Args:
        uri: address of the server or database.

    Raises:
        TrackingError: the server does not respond, or the database cannot be opened or has the
            schema of another version.
        ResourceError: the disk is full.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    check_reachable(uri)
    with mlflow_errors(uri), opened_alone(uri), _without_logs():
        _check_sqlite(uri)
        from mlflow import MlflowClient

        with schema_errors(uri):
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
        follow_home(uri)
    # this logger repeats each error that is raised, with its traceback
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return client


def _check_sqlite(uri: str) -> None:
    """Open an SQLite database once, because MLflow retries for 100 seconds before it fails."""
    if not is_sqlite(uri):
        return
    from sqlalchemy import create_engine, text

    engine = create_engine(uri, connect_args={"timeout": DATABASE_TIMEOUT})
    if file := sqlite_file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with engine.connect() as connection:
            connection.execute(text("PRAGMA schema_version"))
    finally:
        engine.dispose()


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Silence the log messages about each migration of a new database."""
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow.store.db.utils")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
