"""Prompts from files: text, CSV, TSV, JSON Lines or Parquet, read row by row."""

import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from neuroscope.errors import Option, PromptError
from neuroscope.files import absolute
from neuroscope.labels import short_repr
from neuroscope.prompts import Prompt, PromptCheck, PromptSet, digest_of
from neuroscope.text_files import filled_lines, lines_of

Row = tuple[str, Mapping[str, object]]
"""Position of a row in its file, such as `line 3`, and its columns."""


def read_prompts(
    path: str | Path, *, text_column: str = "text", label_columns: Sequence[str] | None = None
) -> PromptSet:
    """Read all prompts of a file into memory.

    Args:
        path, text_column, label_columns: as in `PromptFile.open`.

    Raises:
        PromptError: as `PromptFile.open`.
    """
    columns = _Columns.of(text_column, label_columns)
    return PromptSet(tuple(_read(_checked_path(path), columns, check=True)))


@dataclass(frozen=True)
class PromptFile:
    """Prompts of a file, checked once and read again on each iteration.

    >>> prompts = PromptFile.open("prompts.csv")
    >>> for prompt in prompts: ...

    Memory use does not grow with the file, except for the ids while they are checked.
    """

    path: Path
    count: int
    """Number of prompts."""
    characters: int
    """Number of characters of all texts together."""
    digest: str
    """SHA-256 over ids, texts and labels, in order."""
    text_column: str = "text"
    label_columns: tuple[str, ...] | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        text_column: str = "text",
        label_columns: Sequence[str] | None = None,
    ) -> "PromptFile":
        """Read a file once, to check it and to count its prompts.

        Args:
            path: `.txt` (one prompt per line; blank lines are skipped), `.csv`, `.tsv`, `.jsonl`
                or `.parquet`. A column `id` is optional; rows without one are numbered from 0.
            text_column: name of the column that contains the texts.
            label_columns: names of the columns that contain labels; by default every column except
                `id` and `text_column`.

        Raises:
            PromptError: the file is missing, is of another type or is malformed (the message names
                the line, or the row of a Parquet file), a column is missing, a prompt is blank, or
                two prompts share an id.
        """
        columns = _Columns.of(text_column, label_columns)
        path = _checked_path(path)
        count = characters = 0

        def counted() -> Iterator[Prompt]:
            nonlocal count, characters
            for prompt in _read(path, columns, check=True):
                count, characters = count + 1, characters + len(prompt.text)
                yield prompt

        digest = digest_of(counted())
        return cls(path, count, characters, digest, columns.text, columns.labels)

    def __repr__(self) -> str:
        return short_repr(self, f"{self.count:,} prompts, {self.path.name!r}")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Prompt]:
        columns = _Columns(self.text_column, self.label_columns)
        return _read(self.path, columns, check=False)


@dataclass(frozen=True)
class _Columns:
    """Columns of a file that become texts and labels."""

    text: str
    labels: tuple[str, ...] | None

    @classmethod
    def of(cls, text_column: str, label_columns: Sequence[str] | None) -> "_Columns":
        return cls(text_column, None if label_columns is None else tuple(label_columns))

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Return the names of a file's columns that are read."""
        if self.labels is None:
            return list(names)
        return [name for name in names if name in (self.text, "id", *self.labels)]

    def check(self, names: Sequence[str], prefix: str) -> None:
        """Raise PromptError if a column is missing, or if two that are read have the same name.

        Args:
            names: names of the file's columns.
            prefix: start of the error message, such as `line 1: `; may be empty.
        """
        available = ", ".join(names) or "nothing"
        if self.text not in names:
            others = [
                Option("text_column", name, "name the column that contains the texts")
                for name in names
            ]
            raise PromptError(
                f"{prefix}no column '{self.text}'; found {available}", options=others[:1]
            )
        for name in self.labels or ():
            if name not in names:
                raise PromptError(f"{prefix}no column '{name}' for labels; found {available}")
        for name, count in Counter(self.chosen(names)).items():
            if count > 1:
                raise PromptError(
                    f"{prefix}{count} columns are named '{name}'", remedy="give each its own name"
                )

    def prompt(self, index: int, position: str, row: Mapping[str, object]) -> Prompt:
        """Return the prompt of a row.

        Args:
            index: index of the row, from 0; it becomes the id of a row without one.
            position: position of the row in its file, such as `line 3`.
            row: column -> value.
        """
        text = row[self.text]
        if not isinstance(text, str) or not text.strip():
            fault = "blank" if text is None or isinstance(text, str) else f"{text!r}, not text"
            raise PromptError(
                f"{position}: '{self.text}' is {fault}", remedy="give every row a text"
            )
        others = (name for name in row if name not in ("id", self.text))
        names = others if self.labels is None else self.labels
        values = ((name, row[name]) for name in names)
        labels = {name: _text(value) for name, value in values if not _is_blank(value)}
        id = row.get("id")
        return Prompt(str(index) if id in (None, "") else _text(id), text, labels, position)


def _is_blank(value: object) -> bool:
    """Return whether a cell is empty: the prompt then lacks the label."""
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: object) -> str:
    """Return an id or a label as text; lists, objects and booleans are written as JSON."""
    if isinstance(value, bytes):
        return value.decode()
    nested = isinstance(value, dict | list | bool)
    return json.dumps(value, ensure_ascii=False, default=str) if nested else str(value)


def _checked_path(path: str | Path) -> Path:
    """Return the absolute path of a file; raise PromptError unless prompts can be read from it."""
    path = absolute(path)
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise PromptError(f"prompt file '{path}' {fault}")
    if path.suffix.lower() not in _READERS:
        raise PromptError(
            f"cannot read prompts from '{path}'",
            remedy=f"use a file whose name ends in {', '.join(_READERS)}",
        )
    return path


def _read(path: Path, columns: _Columns, *, check: bool) -> Iterator[Prompt]:
    """Yield the prompts of a file, of which there must be at least one; errors name the file."""
    check_prompt = PromptCheck() if check else None
    index = -1
    try:
        with closing(_READERS[path.suffix.lower()](path, columns)) as rows:
            for index, row in enumerate(rows):
                prompt = columns.prompt(index, *row)
                if check_prompt:
                    check_prompt(prompt)
                yield prompt
    except PromptError as error:
        problem = f"{path}, {error.problem}"
        raise PromptError(problem, options=error.options, remedy=error.remedy) from error
    except UnicodeDecodeError as error:  # bytes in a Parquet file
        raise PromptError(f"{path} is not UTF-8 ({error})", remedy="save it as UTF-8") from error
    except OSError as error:
        raise PromptError(f"{path} cannot be read ({error.strerror or error})") from error
    if index < 0:
        raise PromptError(f"{path} contains no prompts")


def _read_text(path: Path, columns: _Columns) -> Generator[Row, None, None]:
    columns.check(["text"], "")
    for position, text in filled_lines(path):
        yield position, {"text": text}


def _read_csv(
    path: Path, columns: _Columns, *, delimiter: str, name: str
) -> Generator[Row, None, None]:
    """Yield the rows of a CSV or TSV file.

    Args:
        path: path of the file.
        columns: columns that are read.
        delimiter: character between two columns.
        name: plural name of the delimiter, for messages.
    """
    lines = lines_of(path)
    header = list(itertools.islice(lines, 1))
    _refuse_delimiter("".join(header), delimiter, columns.text)
    rows = itertools.chain(header, lines)
    reader = csv.DictReader(rows, delimiter=delimiter, strict=True)
    start = 1  # line on which the row starts; an error may be detected many lines later
    try:
        names = reader.fieldnames
        if names is None:
            return  # the file is empty
        columns.check(names, "line 1: ")
        start = reader.line_num + 1
        for row in reader:
            if None in row or None in row.values():
                raise PromptError(
                    f"line {reader.line_num}: expected {len(names)} columns",
                    remedy=f"quote texts that contain {name}",
                )
            yield f"line {reader.line_num}", row
            start = reader.line_num + 1
    except csv.Error as error:
        raise _csv_error(start, error) from error


def _refuse_delimiter(header: str, delimiter: str, text_column: str) -> None:
    """Raise PromptError if the names of the columns are separated by another character."""
    name = header.strip().strip('"')
    for other in (";", "\t", "|", ","):
        if other in name and delimiter not in name and name != text_column:
            raise PromptError(
                f"line 1: the columns {name!r} are separated by {other!r}",
                remedy="separate them by ',' in a .csv file and by a tab in a .tsv file",
            )


def _csv_error(start: int, error: csv.Error) -> PromptError:
    """Return the error for a row, starting at line `start`, that the csv module cannot parse."""
    remedy = "close every quote, and double the quotes within a text"
    if "field larger than field limit" in str(error):
        remedy = "store texts of that length in a .jsonl file"
    return PromptError(f"the row that starts on line {start}: {error}", remedy=remedy)


def _read_jsonl(path: Path, columns: _Columns) -> Generator[Row, None, None]:
    for position, text in filled_lines(path):
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise PromptError(f"{position}: not JSON ({error.msg})") from error
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{position}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise PromptError(f"{position}: not a JSON object", remedy='write {"text": "…"}')
        columns.check(list(row), f"{position}: ")
        yield position, row


def _read_parquet(path: Path, columns: _Columns) -> Generator[Row, None, None]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns.check(names, "")
            chosen, first = columns.chosen(names), 1
            for batch in file.iter_batches(4096, columns=chosen):
                position = f"rows {first} to {first + len(batch) - 1}"
                values = [_column(batch, name, position) for name in chosen]
                for number, row in enumerate(zip(*values, strict=True), first):
                    yield f"row {number}", dict(zip(chosen, row, strict=True))
                first += len(batch)
    except (ArrowException, OSError) as error:
        raise PromptError(f"not a readable Parquet file ({error})") from error


def _column(batch: Any, name: str, position: str) -> list[object]:
    """Return the values of a column of an Arrow batch."""
    try:
        values: list[object] = batch.column(name).to_pylist()
    except (ValueError, OverflowError, LookupError) as error:  # dates out of range, time zones
        raise PromptError(
            f"{position}: '{name}' contains a value that Python cannot represent ({error})"
        ) from error
    return values


_READERS: dict[str, Callable[[Path, _Columns], Generator[Row, None, None]]] = {
    ".txt": _read_text,
    ".csv": partial(_read_csv, delimiter=",", name="commas"),
    ".tsv": partial(_read_csv, delimiter="\t", name="tabs"),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
