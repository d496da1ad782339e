"""Prompts from files: text, CSV, TSV, JSON Lines or Parquet, read row by row."""

import csv
import itertools
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from neuroscope.errors import PromptError
from neuroscope.files import absolute
from neuroscope.home import check_allowed
from neuroscope.json_text import parsed_json
from neuroscope.labels import short_repr
from neuroscope.prompt_columns import Columns, PairColumns, plain_heading
from neuroscope.prompts import (
    Prompt,
    PromptCheck,
    PromptPair,
    PromptSet,
    digest_of,
    verified,
)
from neuroscope.text_files import filled_lines, lines_of

Row = tuple[str, Mapping[str, object]]
"""Position of a row in its file, such as `line 3`, and its columns."""


def write_prompts(path: Path, prompts: Iterable[Prompt], text_column: str = "text") -> None:
    """Write prompts as JSON lines, from which `PromptFile` reads the same ids, texts and labels.

    Args:
        path: file to write, whose name ends with `.jsonl`.
        prompts: prompts to write.
        text_column: name of the key of the texts.
    """
    with path.open("w", encoding="utf-8") as file:
        for prompt in prompts:
            row = {"id": prompt.id, text_column: prompt.text, **prompt.labels}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_prompts(
    path: str | Path, *, text_column: str = "text", label_columns: Sequence[str] | None = None
) -> PromptSet:
    """Read all prompts of a file into memory.

    Args:
        path, text_column, label_columns: as in `PromptFile.open`.

    Raises:
        PromptError: as `PromptFile.open`.
    """
    columns = Columns.of(text_column, label_columns)
    return PromptSet(tuple(_read(_checked_path(path), columns, check=True)))


def read_pairs(
    path: str | Path, *, a_column: str = "prompt_a", b_column: str = "prompt_b"
) -> tuple[PromptPair, ...]:
    """Read the pairs of prompts of a file; all other columns are labels.

    Args:
        path: file as in `PromptFile.open`, with a pair per row.
        a_column: name of the column of the first prompts.
        b_column: name of the column of the second prompts.

    Raises:
        PromptError: as `PromptFile.open`, or the two prompts of a pair are equal.
    """
    columns = PairColumns(a_column, None, b_column)
    pairs = []
    for prompt in _read(_checked_path(path), columns, check=True):
        labels = dict(prompt.labels)
        other = labels.pop(b_column)
        pairs.append(PromptPair(prompt.id, prompt.text, other, labels, prompt.position))
    return tuple(pairs)


@dataclass(frozen=True)
class PromptFile:
    """Prompts of a file, checked once and read again on each iteration.

    An iteration raises PromptError in the end if the file has changed since it was opened.

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
                `id`, `text_column`, and the index of a pandas data frame. Blanks and byte order
                marks around the names of the file's columns do not count.

        Raises:
            PromptError: the file is missing, is of another type or is malformed (the message names
                the line, or the row of a Parquet file), a column is missing, a prompt is blank, or
                two prompts share an id.
        """
        columns = Columns.of(text_column, label_columns)
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
        columns = Columns(self.text_column, self.label_columns)
        return verified(_read(self.path, columns, check=False), self.digest, str(self.path))


def _checked_path(path: str | Path) -> Path:
    """Return the absolute path of a file; raise PromptError unless prompts can be read from it."""
    path = absolute(path)
    check_allowed(path)
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise PromptError(f"prompt file '{path}' {fault}")
    if path.suffix.lower() not in _READERS:
        raise PromptError(
            f"cannot read prompts from '{path}'",
            remedy=f"use a file whose name ends in {', '.join(_READERS)}",
        )
    return path


def _read(path: Path, columns: Columns, *, check: bool) -> Iterator[Prompt]:
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


def _read_text(path: Path, columns: Columns) -> Generator[Row, None, None]:
    columns.check(["text"], "")
    for position, text in filled_lines(path):
        yield position, {"text": text}


def _read_csv(
    path: Path, columns: Columns, *, delimiter: str, name: str
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
        names = reader.fieldnames = list(map(plain_heading, names))
        start = reader.line_num + 1
        columns.check(names, "line 1: ", reader)
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


def _read_jsonl(path: Path, columns: Columns) -> Generator[Row, None, None]:
    for position, text in filled_lines(path):
        try:
            value = parsed_json(text)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{position}: not JSON ({error})") from error
        if not isinstance(value, dict):
            raise PromptError(f"{position}: not a JSON object", remedy='write {"text": "…"}')
        names = list(map(plain_heading, value))
        row = dict(zip(names, value.values(), strict=True))
        columns.check(names, f"{position}: ", [row])
        yield position, row


def _read_parquet(path: Path, columns: Columns) -> Generator[Row, None, None]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        with pq.ParquetFile(path) as file:
            written = {plain_heading(name): name for name in file.schema_arrow.names}
            names = list(map(plain_heading, file.schema_arrow.names))
            columns.check(names, "", _parquet_rows(file, written))
            chosen = columns.chosen(names)
            rows = _parquet_rows(file, {name: written[name] for name in chosen})
            for number, row in enumerate(rows, 1):
                yield f"row {number}", row
    except (ArrowException, OSError) as error:
        raise PromptError(f"not a readable Parquet file ({error})") from error


def _parquet_rows(file: Any, names: Mapping[str, str]) -> Iterator[Mapping[str, object]]:
    """Yield the rows of a Parquet file; `names` maps names of columns to those in the file."""
    first = 1
    for batch in file.iter_batches(4096, columns=list(names.values())):
        position = f"rows {first} to {first + len(batch) - 1}"
        values = [_column(batch, name, position) for name in names.values()]
        for row in zip(*values, strict=True):
            yield dict(zip(names, row, strict=True))
        first += len(batch)


def _column(batch: Any, name: str, position: str) -> list[object]:
    """Return the values of a column of an Arrow batch."""
    try:
        values: list[object] = batch.column(name).to_pylist()
    except (ValueError, OverflowError, LookupError) as error:  # dates out of range, time zones
        raise PromptError(
            f"{position}: '{name}' contains a value that Python cannot represent ({error})"
        ) from error
    return values


_READERS: dict[str, Callable[[Path, Columns], Generator[Row, None, None]]] = {
    ".txt": _read_text,
    ".csv": partial(_read_csv, delimiter=",", name="commas"),
    ".tsv": partial(_read_csv, delimiter="\t", name="tabs"),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
