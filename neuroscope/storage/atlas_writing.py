"""Writing an atlas: its tables into one DuckDB file, atomically."""

import glob
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from neuroscope.errors import StoreError
from neuroscope.files import absolute, sync_folder
from neuroscope.storage.atlas_connection import connect_to_write, writing_error
from neuroscope.storage.atlas_schema import (
    MEANINGS,
    NEIGHBOURS,
    ORDER,
    SCHEMA,
    TABLES,
    TOKENS,
    VERSION_TABLE,
    AtlasColumn,
)

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

MEMORY = "1GB"
"""Most memory that DuckDB uses; larger tables are sorted on the disk."""

_IN_ORDER = "prompt"
"""Table whose rows come in order: row n, from 0, is prompt n."""

_UNFINISHED = ".tmp"
"""Suffix of the hidden folders of unfinished files."""

Frames: TypeAlias = "pd.DataFrame | Iterable[pd.DataFrame]"
"""The rows of a table, at once or in parts."""


def write_atlas(path: str | Path, tables: Mapping[str, Frames]) -> Path:
    """Write an atlas and return its path.

    >>> write_atlas("atlas.duckdb", {"model": model, "prompt": prompts, ...})

    The file appears under its name only when it is complete and on the disk. The rows of a table
    may come in parts, of which one at a time is in memory, and in any order, except those of
    `prompt`: sorting so much text would take memory that grows with the number of prompts.

    Args:
        path: file to create, which must not exist.
        tables: table -> frame, or iterable of frames, with the columns of `TABLES`.

    Raises:
        ValueError: a table or column is missing or unknown, a value does not fit its column, or
            the prompts are not in the order of their numbers.
        StoreError: the file exists, or cannot be written.
        ResourceError: the disk is full.
    """
    import duckdb

    path = absolute(path)
    _check_names("the atlas", "tables", tables, TABLES)
    check_absent(path)
    try:
        with unfinished_file(path) as file:
            _write(file, tables)
            protect(file)
            move_to_new(file, path)
    except (OSError, duckdb.Error) as error:
        raise writing_error(path, error) from error
    return path


def check_absent(path: Path) -> None:
    """Raise StoreError if a file that is to be written already exists."""
    if path.exists():
        raise StoreError(
            f"{path} already exists, and an atlas is never overwritten",
            remedy="choose another path, or delete the file first",
        )


def move_to_new(file: Path, path: Path) -> None:
    """Move a file, on the same disk, to a path at which nothing exists.

    Raises:
        StoreError: something exists there, which stays as it is.
        OSError: the disk fails.
    """
    try:
        os.link(file, path)
    except FileExistsError:
        check_absent(path)
        raise
    except OSError:  # some file systems have no hard links
        check_absent(path)
        file.rename(path)
    else:
        file.unlink()
    sync_folder(path.parent)


@contextmanager
def unfinished_file(path: Path) -> Iterator[Path]:
    """Yield a path in a hidden folder beside `path`; the folder is removed in the end."""
    folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    try:
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unfinished_folders(path: Path) -> list[Path]:
    """Return the folders in which `path` is being written, or was when a process was killed."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.*{_UNFINISHED}"))


def _write(file: Path, tables: Mapping[str, Frames]) -> None:
    """Write all tables into a new file."""
    with closing(connect_to_write(file, file.with_name("spill"), MEMORY)) as connection:
        for table, columns in TABLES.items():
            connection.execute(_definition(table, columns))
            _comment(connection, table, columns)
            _insert(connection, table, tables[table])
        rows = connection.execute("SELECT count(*) FROM model").fetchone()
        if rows != (1,):
            raise ValueError(f"the table model needs one row, not {rows and rows[0]}")
        connection.execute(f"CREATE TABLE {VERSION_TABLE} (version INTEGER)")
        connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES (?)", [SCHEMA])
        connection.execute("CHECKPOINT atlas")


def _definition(table: str, columns: Iterable[AtlasColumn]) -> str:
    """Return the statement that creates a table."""
    keys = ORDER[table]
    parts = [
        f'"{column.name}" {column.type}{" NOT NULL" * (column.name in keys)}' for column in columns
    ]
    return f"CREATE TABLE {table} ({', '.join(parts)})"


def _comment(
    connection: "duckdb.DuckDBPyConnection", table: str, columns: Iterable[AtlasColumn]
) -> None:
    """Store the meaning of a table and its columns, which `duckdb_columns()` then lists."""
    connection.execute(f"COMMENT ON TABLE {table} IS {_literal(MEANINGS[table])}")
    for column in columns:
        meaning = _literal(column.meaning)
        connection.execute(f'COMMENT ON COLUMN {table}."{column.name}" IS {meaning}')


def _literal(text: str) -> str:
    """Return a text of this package in quotes: COMMENT takes no parameters."""
    return "'" + text.replace("'", "''") + "'"


def _insert(connection: "duckdb.DuckDBPyConnection", table: str, frames: Frames) -> None:
    """Insert the rows of a table, sorted."""
    import duckdb

    try:
        if table == _IN_ORDER:
            _insert_parts(connection, table, table, frames)
            if connection.execute("FROM prompt WHERE prompt <> rowid LIMIT 1").fetchone():
                raise ValueError("the prompts are not numbered from 0 in their order")
            return
        connection.execute(f"CREATE TEMP TABLE staging AS FROM {table} LIMIT 0")
        _insert_parts(connection, table, "staging", frames)
        connection.execute(f"INSERT INTO {table} FROM staging ORDER BY {', '.join(ORDER[table])}")
        connection.execute("DROP TABLE staging")
    except duckdb.ConstraintException as error:
        raise ValueError(f"the table {table} lacks a value of its key: {error}") from error


def _insert_parts(
    connection: "duckdb.DuckDBPyConnection", table: str, target: str, frames: Frames
) -> None:
    """Insert the rows of a table, in their order, into it or into another of the same columns."""
    for frame in _parts(frames):
        connection.register("part", _arrow_table(table, frame))
        connection.execute(f"INSERT INTO {target} BY NAME FROM part")
        connection.unregister("part")


def _parts(frames: Frames) -> "Iterable[pd.DataFrame]":
    """Return the rows of a table as an iterable of frames."""
    import pandas as pd

    return [frames] if isinstance(frames, pd.DataFrame) else frames


def _arrow_table(table: str, frame: "pd.DataFrame") -> Any:
    """Return a frame with the types of a table; NaN becomes NULL.

    Raises:
        ValueError: a column is missing or unknown, or a value does not fit its column.
    """
    import pyarrow as pa

    columns = TABLES[table]
    _check_names(
        f"the table {table}", "columns", frame.columns, [column.name for column in columns]
    )
    schema = pa.schema([(column.name, _arrow_type(column.type)) for column in columns])
    try:
        return pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(f"the table {table} cannot be written: {error}") from error


def _arrow_type(sql: str) -> Any:
    """Return the Arrow type of a type in SQL."""
    import pyarrow as pa

    scalars = {
        "BOOLEAN": pa.bool_(),
        "TINYINT": pa.int8(),
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "REAL": pa.float32(),
        "DOUBLE": pa.float64(),
        "VARCHAR": pa.string(),
        TOKENS[:-2]: pa.struct([("token", pa.string()), ("score", pa.float32())]),
        NEIGHBOURS[:-2]: pa.struct([("neuron", pa.int32()), ("cosine", pa.float32())]),
    }
    scalar = scalars[sql.removesuffix("[]")]
    return pa.list_(scalar) if sql.endswith("[]") else scalar


def _check_names(owner: str, kind: str, names: Iterable[object], expected: Iterable[str]) -> None:
    """Raise ValueError unless the names are the expected ones, in any order."""
    names, expected = list(names), list(expected)
    missing = [name for name in expected if name not in names]
    unknown = [name for name in names if name not in expected]
    repeated = {name for name in names if names.count(name) > 1}
    problems = [
        f"{problem} {kind}: {', '.join(map(str, which))}"
        for problem, which in (("missing", missing), ("unknown", unknown), ("repeated", repeated))
        if which
    ]
    if problems:
        raise ValueError(f"{owner} has {'; '.join(problems)}")


def protect(file: Path) -> None:
    """Flush a complete file to the disk, and let nobody write to it."""
    file.chmod(0o444)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
