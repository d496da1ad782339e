"""Translation of errors of MLflow and the libraries it uses into errors a user can act on."""

import contextlib
import errno
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.errors import NeuroscopeError, ResourceError, TrackingError
from neuroscope.redaction import redacted
from neuroscope.reporting.tracking_server import is_server, unreachable

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException

_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
_REFUSED = {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
_FREE_SPACE = "free disk space, then run again"
_NO_ACCESS = "check its permissions, or choose another with MLFLOW_TRACKING_URI or NEUROSCOPE_HOME"
_DAMAGED = "restore it from a backup, or move it away to start with an empty one"
_SQLITE_ERRORS = {
    sqlite3.SQLITE_READONLY: ("is read-only", _NO_ACCESS),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", _NO_ACCESS),
    sqlite3.SQLITE_PERM: ("cannot be opened", _NO_ACCESS),
    sqlite3.SQLITE_BUSY: (
        "is locked by another process",
        "run again when that process has finished",
    ),
    sqlite3.SQLITE_NOTADB: ("is not an SQLite database", _DAMAGED),
    sqlite3.SQLITE_CORRUPT: ("is damaged", _DAMAGED),
}
"""Problem of the database and remedy, by SQLite's primary result code."""
_LENGTH = 300  # most characters shown of another library's message


class MissingError(TrackingError):
    """Error about a run or another object that MLflow does not have."""


class OutdatedTablesError(TrackingError):
    """Error about a database whose tables an older MLflow created; they can be migrated."""


@contextlib.contextmanager
def mlflow_errors(uri: str, *, requested: str = "") -> Iterator[None]:
    """Translate the errors of MLflow that the block raises.

    Args:
        uri: address of the server or database that the block uses.
        requested: object that the block requests, such as `run '7f3a'`; the error names it if it
            does not exist.

    Raises:
        TrackingError: MLflow cannot be reached, refuses the request, or lacks the requested object.
        ResourceError: the disk is full.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        raise _from_mlflow(error, uri, requested) from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise _from_database(error, uri) from error
    except OSError as error:  # including the errors of the library requests
        raise _from_system(error, uri, requested) from error
    except ImportError as error:  # the driver of a database
        raise TrackingError(
            f"MLflow at {uri} needs the module '{error.name}', which is missing",
            remedy="install the package that provides this module",
        ) from error


@contextlib.contextmanager
def schema_errors(uri: str) -> Iterator[None]:
    """Translate the errors of a database whose tables were created by another version of MLflow.

    Other errors pass unchanged.

    Raises:
        TrackingError: the schema is older or newer than that of the installed MLflow.
    """
    if is_server(uri):
        yield
        return
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, CommandError) as error:
        if schema_error := _schema_error(uri):
            raise schema_error from error
        raise


def _schema_error(uri: str) -> TrackingError | None:
    """Return the error for a database whose schema is not that of the installed MLflow, or None."""
    import mlflow
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    schema, expected = _schema_of(uri), scripts.get_current_head()
    if schema is None or schema == expected:
        return None
    shown = uri
    problem = f"has the schema {schema}; MLflow {mlflow.__version__} expects {expected}"
    try:
        scripts.get_revision(schema)
    except CommandError:  # the installed MLflow does not know this schema
        return TrackingError(
            f"the database {shown} {problem}; a newer MLflow created it",
            remedy="install the MLflow version that created it, or a later one",
        )
    remedy = f"back up the database, then run `mlflow db upgrade {shlex.quote(uri)}`"
    return OutdatedTablesError(f"the database {shown} {problem}; it is outdated", remedy=remedy)


def _schema_of(uri: str) -> str | None:
    """Return the revision of a database's schema, or None if it has no tables of MLflow."""
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


def _from_mlflow(error: "MlflowException", uri: str, requested: str) -> NeuroscopeError:
    """Translate an error of MLflow, or the error that caused it."""
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error.__cause__, SQLAlchemyError):
        return _from_database(error.__cause__, uri)
    if isinstance(error.__cause__, OSError):
        return _from_system(error.__cause__, uri, requested)
    if isinstance(error.__context__, RequestException):  # MLflow raises these without a cause
        return _from_system(error.__context__, uri, requested)
    shown = uri
    if error.error_code in _ABSENT and requested:
        return MissingError(f"{requested} does not exist in MLflow at {shown}")
    problem = f"MLflow at {shown} reports {error.error_code}: {_shortened(error.message)}"
    if error.error_code in _REFUSED:
        login = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return TrackingError(problem, remedy=f"set {login}")
    if error.error_code == "ENDPOINT_NOT_FOUND":
        return TrackingError(problem, remedy="set MLFLOW_TRACKING_URI to an MLflow 3 server")
    return TrackingError(problem)


def _from_database(error: Exception, uri: str) -> NeuroscopeError:
    """Translate an error by SQLite's result code, which other databases do not have."""
    shown = uri
    code = getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return ResourceError(f"no disk space is left for the database {shown}", remedy=_FREE_SPACE)
    if code in _SQLITE_ERRORS:
        problem, remedy = _SQLITE_ERRORS[code]
        return TrackingError(f"the database {shown} {problem}", remedy=remedy)
    return TrackingError(
        f"the database {shown} reports: {_shortened(str(error))}",
        remedy="check that the database is running and that its address is correct",
    )


def _from_system(error: OSError, uri: str, requested: str) -> NeuroscopeError:
    """Translate an error of the network or of a file."""
    from requests import HTTPError, RequestException

    shown = uri
    if isinstance(error, HTTPError) and error.response is not None:
        if error.response.status_code == 404 and requested:
            return TrackingError(f"{requested} does not exist in MLflow at {shown}")
        return TrackingError(f"MLflow at {shown} responds with an error: {_shortened(str(error))}")
    if isinstance(error, RequestException):
        return unreachable(uri, error)
    file = error.filename2 or error.filename
    if error.errno in _FULL_DISK:
        return ResourceError(f"no disk space is left to write {file}", remedy=_FREE_SPACE)
    return TrackingError(
        f"cannot read or write {file} for MLflow at {shown} ({error.strerror or error})",
        remedy="check that the folder exists and is writable",
    )


def _shortened(message: str) -> str:
    """Return a message as one line without secrets, cut to a readable length."""
    line = redacted(" ".join(message.split()))
    return line if len(line) <= _LENGTH else f"{line[:_LENGTH]}…"
