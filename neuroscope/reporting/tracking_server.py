"""Choice of MLflow, a server or the embedded database, and the command to serve the database."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from neuroscope.errors import TrackingError
from neuroscope.home import create_home, home
from neuroscope.redaction import public_address

_TIMEOUT = 10  # seconds in which a server must respond
DATABASE_TIMEOUT = 20
"""Seconds to wait while another process holds the SQLite database, as in MLflow."""

SERVER_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # ten processes that are not needed
}
"""Environment variables of a server that is started with `server_arguments`."""


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, or the address of the embedded SQLite database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or embedded_database(home())


def embedded_database(home: Path) -> str:
    """Return the address of the SQLite database of MLflow in a home folder."""
    return sqlite_address(home / "mlflow.db")


def sqlite_address(file: Path, driver: str = "") -> str:
    """Return the address of an SQLite database, in which `?` and `%` are percent-encoded.

    MLflow creates the folder of the database without decoding the path, unless the address names a
    driver. An address with encoded characters therefore names one.

    >>> sqlite_address(Path("/data/a b/mlflow.db"))
    'sqlite:////data/a b/mlflow.db'
    >>> sqlite_address(Path("/data/a?b/mlflow.db"))
    'sqlite+pysqlite:////data/a%3Fb/mlflow.db'
    """
    path = str(file).replace("%", "%25").replace("?", "%3F")
    if path != str(file):
        driver = driver or "pysqlite"
    return f"sqlite+{driver}:///{path}" if driver else f"sqlite:///{path}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite database; None for a server, another database or memory."""
    if not is_sqlite(uri):
        return None
    from sqlalchemy.engine import make_url

    file = make_url(uri).database
    return None if not file or file.startswith((":", "file:")) else Path(file)


def artifact_location(kind: str) -> str:
    """Return the URI of the folder in which the embedded database keeps a study's artifacts."""
    return (home() / "artifacts" / kind).as_uri()


def browser_address(uri: str) -> str:
    """Return the address under which browsers reach a server, without a login.

    It is `NEUROSCOPE_MLFLOW_ADDRESS` if that is set: in a container, or behind a proxy, the server
    has another name than `MLFLOW_TRACKING_URI` says.
    """
    return os.environ.get("NEUROSCOPE_MLFLOW_ADDRESS") or public_address(uri)


def is_server(uri: str) -> bool:
    """Return whether an MLflow address is that of a server, not of a database."""
    return uri.startswith(("http://", "https://"))


def is_sqlite(uri: str) -> bool:
    """Return whether an MLflow address is that of an SQLite database."""
    return uri.startswith(("sqlite:", "sqlite+"))


def server_arguments(home: Path, port: int) -> list[str]:
    """Return the arguments of `python` that serve the embedded MLflow on 127.0.0.1.

    Args:
        home: home folder, with the database and the artifacts.
        port: port of the server.
    """
    artifacts = (home / "artifacts").as_uri()
    return [
        *("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", embedded_database(home)),
        # plain files, which stay readable when the database is used without a server
        *("--default-artifact-root", artifacts, "--artifacts-destination", artifacts),
    ]


def check_no_outer_run() -> None:
    """Raise TrackingError if `MLFLOW_RUN_ID` is set: MLflow would use that run for every result."""
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        raise TrackingError(
            f"MLFLOW_RUN_ID is set ({run_id}), so MLflow would record results in that run",
            remedy="run `unset MLFLOW_RUN_ID` first",
        )


def check_reachable(uri: str) -> None:
    """Check with one request that a server responds, because MLflow itself retries for minutes.

    Raises:
        TrackingError: the server does not respond, or refuses this host name.
    """
    if not is_server(uri):
        return
    import httpx

    address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search"
    try:
        response = httpx.get(address, params={"max_results": 1}, timeout=_TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise unreachable(uri, error) from error
    if response.status_code == httpx.codes.FORBIDDEN:
        raise TrackingError(
            f"the tracking server {uri} responds with 403 Forbidden",
            remedy="add its host name to the server's MLFLOW_SERVER_ALLOWED_HOSTS",
        )


def unreachable(uri: str, error: Exception) -> TrackingError:
    """Return the error for a server that does not respond."""
    return TrackingError(
        f"cannot reach the tracking server {uri} ({error})",
        remedy="start the server, or unset MLFLOW_TRACKING_URI to use the embedded database",
    )


@contextlib.contextmanager
def opened_alone(uri: str) -> Iterator[None]:
    """Lock an SQLite database while it is opened: two processes cannot both create its tables."""
    if not is_sqlite(uri):
        yield
        return
    from filelock import FileLock

    with FileLock(create_home() / "mlflow.lock"):
        yield
