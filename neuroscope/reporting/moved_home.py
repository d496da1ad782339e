"""Addresses of artifacts in the embedded database, corrected when its home was moved or copied.

MLflow stores the absolute address of the artifacts of each experiment, run and model. In a home
that was moved or copied, these addresses still name the former home.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.home import home
from neuroscope.reporting.artifacts import ArtifactFolder
from neuroscope.reporting.tracking_errors import mlflow_errors
from neuroscope.reporting.tracking_server import DATABASE_TIMEOUT, sqlite_file

if TYPE_CHECKING:
    from sqlalchemy import Connection, TextClause

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
"""Tables and columns in which MLflow stores addresses of artifacts."""
_EXPERIMENTS = "SELECT experiment_id, name, artifact_location FROM experiments"

_log = logging.getLogger("neuroscope")


def follow_home(uri: str) -> None:
    """Correct the addresses of artifacts in a home's own database after a move or a copy.

    Addresses outside the `artifacts` folder of the former home are not changed. Neither are those
    of a former home that exists and alone has the artifacts. The caller holds the database's lock.

    Args:
        uri: address of a database or server; only the home's own database is corrected.

    Raises:
        TrackingError: the addresses must be corrected, but the database cannot be written.
    """
    if sqlite_file(uri) != home() / "mlflow.db":
        return
    from sqlalchemy import create_engine

    folder = home() / "artifacts"
    engine = create_engine(uri, connect_args={"timeout": DATABASE_TIMEOUT})
    try:
        with mlflow_errors(uri), engine.begin() as connection:
            moved = [root for root in _roots(connection) if _is_moved(connection, root, folder)]
            for root in moved:
                _replace(connection, root, folder.as_uri())
    finally:
        engine.dispose()
    for root in moved:
        _log.warning("the home was moved or copied: its artifacts are in %s, not %s", folder, root)


def _roots(connection: "Connection") -> set[str]:
    """Return the addresses of the `artifacts` folders of homes in which studies are recorded."""
    from sqlalchemy import text

    roots = set()
    for id, name, location in connection.execute(text(_EXPERIMENTS)):
        _, is_study, kind = name.partition("neuroscope/")
        for last in (kind, str(id)) if is_study else ():  # a server names the folder by the id
            if (location or "").endswith(f"/artifacts/{last}"):
                roots.add(location.removesuffix(f"/{last}"))
    return roots


def _is_moved(connection: "Connection", root: str, folder: Path) -> bool:
    """Return whether the artifacts of a former home are now in this home's folder."""
    former = ArtifactFolder(root, "").local
    if former is None or former == folder or _is_same(former, folder):
        return False
    names = list(_run_folders(connection, root, former))
    here = any(os.path.isdir(folder / name) for name in names)
    return here or not any(os.path.isdir(former / name) for name in names)


def _is_same(former: Path, folder: Path) -> bool:
    """Return whether two paths lead to one existing folder, through a link or a mount."""
    try:
        return former.samefile(folder)
    except OSError:
        return False


def _run_folders(connection: "Connection", root: str, former: Path) -> Iterator[Path]:
    """Yield the folders of the runs whose artifacts are below a root, relative to the root."""
    statement = _statement("SELECT {column} FROM {table}", "runs", "artifact_uri")
    for (uri,) in connection.execute(statement, {"root": f"{root}/"}):
        local = ArtifactFolder(uri, "").local
        if local is not None:
            yield local.relative_to(former)


def _replace(connection: "Connection", root: str, new_root: str) -> None:
    """Replace the beginning of every address below a root."""
    for table, column in _COLUMNS:
        change = "UPDATE {table} SET {column} = :new || substr({column}, length(:root) + 1)"
        statement = _statement(change, table, column)
        connection.execute(statement, {"root": f"{root}/", "new": f"{new_root}/"})


def _statement(template: str, table: str, column: str) -> "TextClause":
    """Return a statement on the rows of a table in which a column begins with `:root`."""
    from sqlalchemy import text

    condition = " WHERE substr({column}, 1, length(:root)) = :root"
    return text((template + condition).format(table=table, column=column))
