"""Connections to the DuckDB file of an atlas, with safe settings, and the errors of DuckDB."""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.errors import NeuroscopeError, ResourceError, StoreError

if TYPE_CHECKING:
    import duckdb

REBUILD = "copy it again from its source, or build the atlas again"

_SETTINGS = {"autoload_known_extensions": False, "autoinstall_known_extensions": False}
_STORAGE = "v1.2.0"
"""Oldest version of DuckDB that can read the file."""

_MAGIC = slice(8, 12)
"""Bytes of a DuckDB file that read `DUCK`."""

_LOCKED = ("Could not set lock", "Conflicting lock")
"""Texts in the error of DuckDB for a file that another program has open for writing."""

_FULL = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def connect_to_read(path: Path) -> "duckdb.DuckDBPyConnection":
    """Open an existing file, read-only.

    Queries can neither read other files nor load extensions, and nothing can lift these limits.

    Raises:
        StoreError: the file is missing, cannot be opened, is not a DuckDB file, or is damaged.
    """
    import duckdb

    _check_header(path)
    try:
        return _attached(path, "READ_ONLY", {"temp_directory": ""})
    except duckdb.Error as error:
        raise _not_opened(path, error) from error


def connect_to_write(path: Path, spill: Path, memory: str) -> "duckdb.DuckDBPyConnection":
    """Create a file and open it.

    Args:
        path: file that does not exist.
        spill: folder for intermediate values that do not fit in memory.
        memory: most memory that DuckDB uses, such as `1GB`.
    """
    settings = {"temp_directory": str(spill), "memory_limit": memory}
    return _attached(path, f"STORAGE_VERSION '{_STORAGE}'", settings)


def _attached(path: Path, mode: str, settings: dict[str, str]) -> "duckdb.DuckDBPyConnection":
    """Return a connection whose default database is the file.

    DuckDB refuses to open a file twice in one process with different settings, but not to attach
    it to several databases in memory.
    """
    import duckdb

    connection = duckdb.connect(":memory:", config={**_SETTINGS, **settings})
    try:
        connection.execute(f"ATTACH ? AS atlas ({mode})", [str(path)])
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        connection.execute("USE atlas")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_header(path: Path) -> None:
    """Raise StoreError unless a file exists and begins as a DuckDB file."""
    try:
        with path.open("rb") as file:
            magic = file.read(_MAGIC.stop)[_MAGIC]
    except FileNotFoundError as error:
        remedy = "give the path of an atlas.duckdb, or build an atlas"
        raise StoreError(f"{path} does not exist", remedy=remedy) from error
    except OSError as error:
        remedy = "check the path, its permissions and its disk"
        raise StoreError(f"{path} cannot be read ({error.strerror})", remedy=remedy) from error
    if magic != b"DUCK":
        raise not_an_atlas(path, "it is not a DuckDB file")


def _not_opened(path: Path, error: "duckdb.Error") -> NeuroscopeError:
    """Return the error for a DuckDB file that cannot be opened."""
    reason = _first_line(error)
    if any(text in reason for text in _LOCKED):
        return StoreError(
            f"{path} is open for writing in another program ({reason})",
            remedy="close that program, or open the file in it read-only",
        )
    if "version number" in reason:
        return StoreError(
            f"{path} was written by another version of DuckDB ({reason})",
            remedy="install the newest duckdb: pip install --upgrade duckdb",
        )
    return reading_error(path, error)


def not_an_atlas(path: Path, reason: str) -> StoreError:
    """Return the error for a file that is something else."""
    return StoreError(
        f"{path} is not an atlas: {reason}", remedy="give the path of an atlas.duckdb"
    )


def reading_error(path: Path, error: "duckdb.Error") -> NeuroscopeError:
    """Return the error for a query that fails on an open file."""
    import duckdb

    if isinstance(error, duckdb.OutOfMemoryException):
        return ResourceError(
            f"not enough memory for a query on {path} ({_first_line(error)})",
            remedy="ask for fewer rows or columns",
        )
    return StoreError(f"{path} is damaged ({_first_line(error)})", remedy=REBUILD)


def writing_error(
    path: Path, error: "OSError | duckdb.Error", again: str = "build the atlas again"
) -> NeuroscopeError:
    """Return the error for a file that cannot be written.

    Args:
        path: file.
        error: what the system or DuckDB reports.
        again: what to do after the cause is removed, in the imperative.
    """
    import duckdb

    reason = (isinstance(error, OSError) and error.strerror) or _first_line(error)
    full = isinstance(error, duckdb.OutOfMemoryException) or any(text in reason for text in _FULL)
    kind: type[NeuroscopeError] = ResourceError if full else StoreError
    repair = "free some space" if full else "check the disk and its permissions"
    return kind(f"cannot write {path} ({reason})", remedy=f"{repair} and {again}")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
