"""Environment variables that MLflow and Prefect read, set before they are imported."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from neuroscope.errors import StackError
from neuroscope.home import create_home, home
from neuroscope.redaction import split_login
from neuroscope.reporting.tracking_server import sqlite_address

NO_TELEMETRY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "true",
}
"""Variables that turn off the telemetry of MLflow and Prefect."""

_LINE = "%(asctime)s.%(msecs)03d | %(levelname)-7s | flow run %(flow_run_id)s | "
LOG_LINES = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": _LINE + "%(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": _LINE
    + "task %(task_run_name)s | %(message)s",
}
"""Variables with which each line of a worker's log has the id of its flow run."""


def prepare_environment() -> None:
    """Turn off telemetry, and store the database of the embedded Prefect in the home folder.

    A server named by `PREFECT_API_URL`, or the user's own `PREFECT_HOME` or profile, takes
    precedence. A login in that address becomes `PREFECT_API_AUTH_STRING`, because Prefect shows its
    address in logs and links.
    """
    os.environ.update(NO_TELEMETRY)
    address, login = split_login(os.environ.get("PREFECT_API_URL", ""))
    if login:
        os.environ.update({"PREFECT_API_URL": address, "PREFECT_API_AUTH_STRING": login})
    own = ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE")
    if not any(os.environ.get(name) for name in own):
        os.environ.update(prefect_variables(home() / "prefect"))
    # the flow's log goes to Prefect; the terminal shows a progress bar and one clear error
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    # the embedded server starts in 5 s, but on a busy machine it can take over 20 s, the default
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")


def prefect_variables(folder: Path) -> dict[str, str]:
    """Return the variables with which Prefect keeps its settings and its database in a folder."""
    variables = {"PREFECT_HOME": str(folder)}
    database = sqlite_address(folder / "prefect.db", "aiosqlite")
    if "%" in database:  # Prefect does not encode the path in the address of its database
        variables["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
    return variables


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Replace the environment of this process for the duration of the block."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def check_prefect() -> None:
    """Check that the server named by `PREFECT_API_URL`, if any, responds.

    Raises:
        StackError: the server does not respond.
    """
    import httpx

    address = os.environ.get("PREFECT_API_URL")
    if not address:
        create_home()  # Prefect creates its own folder in it, but not the parents
        return
    try:
        httpx.get(f"{address.rstrip('/')}/health", timeout=10).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StackError(
            f"the Prefect server {address} cannot be reached ({error})",
            remedy="start it, or unset PREFECT_API_URL to use the embedded server",
        ) from error
