"""Open atlas: its connection, the schema that it must have, and queries in SQL."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from neuroscope.errors import ExperimentError, StoreError
from neuroscope.files import absolute
from neuroscope.home import check_allowed
from neuroscope.storage.atlas_connection import connect_to_read, not_an_atlas, reading_error
from neuroscope.storage.atlas_schema import SCHEMA, VERSION_TABLE

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

Parameters: TypeAlias = Sequence[object] | Mapping[str, object]
"""Values of the placeholders of a query: `?` in order, or `$name` by name."""


class AtlasReader:
    """Connection to an atlas, read-only; `Atlas` adds its queries."""

    def __init__(self, path: Path, connection: "duckdb.DuckDBPyConnection"):
        self.path = path
        self._connection: duckdb.DuckDBPyConnection | None = connection

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an atlas, read-only.

        Raises:
            NeuroscopeError: the path is outside the folders from which a server may read.
            StoreError: the file is missing, damaged, open for writing elsewhere, not an atlas, or
                an atlas of another schema.
        """
        path = absolute(path)
        check_allowed(path)
        atlas = cls(path, connect_to_read(path))
        try:
            atlas._check_schema()
        except BaseException:
            atlas.close()
            raise
        return atlas

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}{'' if self._connection else ' (closed)'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second call has no effect."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def sql(self, query: str, parameters: Sequence[object] = ()) -> "pd.DataFrame":
        """Return the result of a DuckDB SQL query; `duckdb_columns()` lists the schema.

        >>> atlas.sql("SELECT name FROM neuron WHERE layer = ? AND sd > ?", [3, 0.5])

        Args:
            query: one statement, SELECT or an equivalent such as FROM or DESCRIBE.
            parameters: values for its `?` placeholders.

        Returns:
            One row per row of the result; a missing value is one that `pandas.isna` recognises.

        Raises:
            ExperimentError: the query is wrong, or does more than read.
        """
        with self._cursor(by_user=True) as cursor:
            _check_reads_only(cursor, query)
            return cursor.execute(query, list(parameters)).df()

    def _check_schema(self) -> None:
        """Raise StoreError unless the file is an atlas of this schema."""
        listed = "SELECT 1 FROM duckdb_tables() WHERE database_name = 'atlas' AND table_name = ?"
        if not self._records(listed, [VERSION_TABLE]):
            raise not_an_atlas(self.path, f"it has no table {VERSION_TABLE}")
        rows = self._records(f"SELECT version FROM {VERSION_TABLE}")
        version = rows[0]["version"] if rows else 0
        if version != SCHEMA:
            remedy = "install a newer neuroscope" if version > SCHEMA else "build the atlas again"
            problem = f"{self.path} has schema {version}; this neuroscope reads schema {SCHEMA}"
            raise StoreError(problem, remedy=remedy)

    def _frame(self, query: str, parameters: Parameters = ()) -> "pd.DataFrame":
        """Return the result of one of this package's queries."""
        with self._cursor() as cursor:
            return cursor.execute(query, parameters).df()

    def _records(self, query: str, parameters: Parameters = ()) -> list[dict[str, Any]]:
        """Return the result of one of this package's queries as one dictionary per row."""
        with self._cursor() as cursor:
            rows = cursor.execute(query, parameters).fetchall()
            names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in rows]

    @contextmanager
    def _cursor(self, *, by_user: bool = False) -> "Iterator[duckdb.DuckDBPyConnection]":
        """Yield a connection for the queries of one thread, and translate the errors of DuckDB.

        Args:
            by_user: whether a user wrote the query, who may then be at fault.
        """
        import duckdb

        if self._connection is None:
            raise ValueError(f"{self.path} is closed")
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("USE atlas")
                yield cursor
        except duckdb.Error as error:
            if by_user and _is_wrong_query(error):
                raise _wrong_query(str(error)) from error
            raise reading_error(self.path, error) from error


def _check_reads_only(cursor: "duckdb.DuckDBPyConnection", query: str) -> None:
    """Raise ExperimentError unless the query is one statement that only reads.

    Other statements could attach the file again, for writing.
    """
    import duckdb

    types = [statement.type for statement in cursor.extract_statements(query)]
    if types != [duckdb.StatementType.SELECT]:
        names = ", ".join(kind.name for kind in types) or "no statement"
        raise _wrong_query(f"it must be one SELECT statement, but is {names}")


def _is_wrong_query(error: "duckdb.Error") -> bool:
    """Return whether the query is at fault, rather than the file or the memory."""
    import duckdb

    wrong = (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError)
    return isinstance(error, (*wrong, duckdb.PermissionException))


def _wrong_query(reason: str) -> ExperimentError:
    return ExperimentError(
        f"cannot run the query: {reason}",
        remedy="correct it; the query 'SHOW TABLES' lists the tables",
    )
