"""Prompts from files: text, CSV, JSON lines, Parquet; read row by row, whatever their length."""

import csv
import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from neuroscope.errors import PromptError
from neuroscope.files import absolute
from neuroscope.prompts import Prompt, PromptSet, checked, digest_of

Rows = Generator[tuple[int, Mapping[str, object]], None, None]
"""Of each row the line in the file, from 1, and the columns."""


def read_prompts(path: str | Path) -> PromptSet:
    """All prompts of a file, in memory; see `PromptFile.open`."""
    return PromptSet(tuple(_read(_known(path), check=True)))


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file, checked once and read anew each time they are gone through.

    >>> prompts = PromptFile.open("prompts.csv")
    >>> for prompt in prompts: ...

    Memory does not grow with the file, but for the ids while they are checked.
    """

    path: Path
    count: int
    characters: int  # of all texts together
    digest: str

    @classmethod
    def open(cls, path: str | Path) -> "PromptFile":
        """Reads the file through once: `.txt` (a prompt a line), `.csv`, `.jsonl` or `.parquet`.

        Tables need a column `text`; `id` is optional (else the row's number, from 0), and every
        other column becomes a label.

        Raises:
            PromptError: the file is missing, of another kind or malformed (with the line), or a
                prompt is blank or has another's id.
        """
        path = _known(path)
        count = characters = 0

        def counted() -> Iterator[Prompt]:
            nonlocal count, characters
            for prompt in _read(path, check=True):
                count, characters = count + 1, characters + len(prompt.text)
                yield prompt

        digest = digest_of(counted())
        return cls(path, count, characters, digest)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Prompt]:
        return _read(self.path, check=False)


def _known(path: str | Path) -> Path:
    path = absolute(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise PromptError(f"prompt file '{path}' {what}")
    if path.suffix.lower() not in _READERS:
        kinds = ", ".join(_READERS)
        raise PromptError(f"cannot read prompts from '{path}': the file's ending must be {kinds}")
    return path


def _read(path: Path, *, check: bool) -> Iterator[Prompt]:
    """The file's prompts, at least one; a fault is raised where it stands."""
    prompt = None
    try:
        with closing(_READERS[path.suffix.lower()](path)) as rows:
            found = (_prompt(index, line, row) for index, (line, row) in enumerate(rows))
            for prompt in checked(found) if check else found:
                yield prompt
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from error
    except PromptError as error:
        raise PromptError(f"{path}, {error}") from error
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror or error}") from error
    if prompt is None:
        raise PromptError(f"{path} holds no prompts")


def _prompt(index: int, line: int, row: Mapping[str, object]) -> Prompt:
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        fault = "missing or blank" if text is None or isinstance(text, str) else f"{text!r}"
        raise PromptError(f"line {line}: 'text' is {fault}; every row needs text")
    labels = {
        key: _label(value)
        for key, value in row.items()
        if key not in ("id", "text") and value is not None
    }
    id = row.get("id")
    return Prompt(str(index) if id in (None, "") else str(id), text, labels)


def _label(value: object) -> str:
    """A label as text; what JSON alone can hold stays JSON."""
    nested = isinstance(value, dict | list | bool)
    return json.dumps(value, ensure_ascii=False, default=str) if nested else str(value)


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line, from 1, and text of the lines that are not blank; only a new line ends a line."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for line, text in enumerate(file, 1):
            if text.strip():
                yield line, text.removesuffix("\n").removesuffix("\r")


def _read_text(path: Path) -> Rows:
    for line, text in _filled_lines(path):
        yield line, {"text": text}


def _read_csv(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        begins = 1  # the line where a row begins, which may be far above where it is found faulty
        try:
            columns = _checked_columns(reader.fieldnames or (), "line 1: ")
            begins = reader.line_num + 1
            for row in reader:
                if None in row or None in row.values():
                    raise PromptError(
                        f"line {reader.line_num}: expected {len(columns)} columns; quote texts"
                        " that hold commas"
                    )
                yield reader.line_num, row
                begins = reader.line_num + 1
        except csv.Error as error:
            hint = (
                "put texts that long into a .jsonl file"
                if "limit" in str(error)
                else "is a quote not closed, or not doubled within a text?"
            )
            raise PromptError(f"the row from line {begins} on: {error}; {hint}") from error


def _checked_columns(names: Sequence[str], where: str) -> Sequence[str]:
    """The names of a table's columns; `where` they stand is told with what is wrong.

    Raises:
        PromptError: there is none called `text`, or two have one name.
    """
    if "text" not in names:
        raise PromptError(f"{where}no column 'text'; found {', '.join(names) or 'nothing'}")
    for name, count in Counter(names).items():
        if count > 1:
            raise PromptError(f"{where}{count} columns are called '{name}': rename them")
    return names


def _read_jsonl(path: Path) -> Rows:
    for line, text in _filled_lines(path):
        try:
            row = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise PromptError(f"line {line}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise PromptError(f'line {line}: expected an object such as {{"text": "…"}}')
        yield line, row


def _read_parquet(path: Path) -> Rows:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        file = pq.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise PromptError(f"not a readable Parquet file ({error})") from error
    with file:
        _checked_columns(file.schema_arrow.names, "")
        try:
            rows = (row for batch in file.iter_batches(4096) for row in batch.to_pylist())
            yield from enumerate(rows, 1)
        except (ArrowException, OSError) as error:
            raise PromptError(f"not a readable Parquet file ({error})") from error


_READERS = {
    ".txt": _read_text,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
