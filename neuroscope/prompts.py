"""Prompts, sets of prompts, and where they come from: text, templates, files."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from neuroscope.errors import PromptError


@dataclass(frozen=True)
class Prompt:
    """One text given to a model; `labels` are what is known about it (topic=politics)."""

    id: str
    text: str
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class PromptSet:
    """Prompts in a fixed order, with distinct ids.

    >>> prompts = PromptSet.of(["The cat is on the mat", "The dog is on the mat"])
    >>> [prompt.id for prompt in prompts]
    ['0', '1']
    >>> prompts.digest[:8]
    '8845e783'

    Raises:
        PromptError: there is no prompt, one is blank, or two share an id.
    """

    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        if not self.prompts:
            raise PromptError("no prompts were given: name at least one")
        for number, prompt in enumerate(self.prompts, 1):
            if not prompt.text.strip():
                raise PromptError(
                    f"prompt '{prompt.id}' (number {number} of {len(self.prompts)}) is blank: give"
                    " it text or leave it out"
                )
        id, count = Counter(prompt.id for prompt in self.prompts).most_common(1)[0]
        if count > 1:
            raise PromptError(f"{count} prompts share the id '{id}': ids must be distinct")

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @classmethod
    def of(cls, prompts: "PromptSet | Iterable[str]") -> "PromptSet":
        """A set from texts, whose ids are their positions; a set is returned as it is."""
        if isinstance(prompts, PromptSet):
            return prompts
        if isinstance(prompts, str):
            raise PromptError("prompts must be a list of texts, not one text: write [text]")
        return cls(tuple(Prompt(str(index), text) for index, text in enumerate(prompts)))

    @property
    def texts(self) -> list[str]:
        return [prompt.text for prompt in self.prompts]

    @property
    def ids(self) -> list[str]:
        return [prompt.id for prompt in self.prompts]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over ids, texts and labels, in order."""
        rows = [[prompt.id, prompt.text, dict(prompt.labels)] for prompt in self.prompts]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def fill_template(template: str, fills: Sequence[str]) -> list[str]:
    """The template's text once for each fill, put where `{}` stands.

    Raises:
        PromptError: the template has not exactly one `{}`, or there are no fills.
    """
    if template.count("{}") != 1:
        raise PromptError(
            f"template '{template}' must hold '{{}}' exactly once, where the fills go,"
            " as in 'The engineer is a {}.'"
        )
    if not fills:
        raise PromptError(f"template '{template}' has no fills: give at least two words for '{{}}'")
    for fill in fills:
        if not fill.strip():
            raise PromptError(f"a fill of template '{template}' is blank: give it text")
    return [template.replace("{}", fill) for fill in fills]


def read_prompts(path: str | Path) -> PromptSet:
    """Prompts from a file: `.txt` (one a line), `.csv`, `.jsonl` or `.parquet`.

    Tables need a column `text`; `id` is optional (else the row's number, from 0), and every
    other column becomes a label.

    Raises:
        PromptError: the file is missing, of another kind or malformed (with the line).
    """
    path = Path(path)
    readers = {
        ".txt": _read_text,
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
    if not path.is_file():
        raise PromptError(f"prompt file '{path}' does not exist")
    if path.suffix not in readers:
        kinds = ", ".join(readers)
        raise PromptError(f"cannot read prompts from '{path}': the file's ending must be {kinds}")
    try:
        rows = list(readers[path.suffix](path))
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from error
    if not rows:
        raise PromptError(f"{path} holds no prompts")
    prompts = tuple(_prompt(path, index, line, row) for index, (line, row) in rows)
    try:
        return PromptSet(prompts)
    except PromptError as error:
        raise PromptError(f"{path}: {error}") from error


_Row = tuple[int, tuple[int, Mapping[str, object]]]
"""Index from 0, then the line in the file and the columns."""


def _prompt(path: Path, index: int, line: int, row: Mapping[str, object]) -> Prompt:
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f"{path}, line {line}: 'text' is missing or blank; every row needs text")
    labels = {
        key: str(value)
        for key, value in row.items()
        if key not in ("id", "text") and value is not None
    }
    id = row.get("id")
    return Prompt(str(index) if id in (None, "") else str(id), text, labels)


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line, from 1, and text of the lines that are not blank; only a new line ends a line."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return ((line, text) for line, text in enumerate(lines, 1) if text.strip())


def _read_text(path: Path) -> Iterator[_Row]:
    for index, (line, text) in enumerate(_filled_lines(path)):
        yield index, (line, {"text": text})


def _read_csv(path: Path) -> Iterator[_Row]:
    import csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            if "text" not in (reader.fieldnames or ()):
                found = ", ".join(reader.fieldnames or ()) or "nothing"
                raise PromptError(f"{path}, line 1: no column 'text' in the header; found {found}")
            for index, row in enumerate(reader):
                if None in row or None in row.values():
                    raise PromptError(
                        f"{path}, line {reader.line_num}: expected"
                        f" {len(reader.fieldnames or ())} columns; quote texts that hold commas"
                    )
                yield index, (reader.line_num, row)
        except csv.Error as error:
            raise PromptError(f"{path}, line {reader.line_num}: {error}") from error


def _read_jsonl(path: Path) -> Iterator[_Row]:
    for index, (line, text) in enumerate(_filled_lines(path)):
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise PromptError(f"{path}, line {line}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise PromptError(f'{path}, line {line}: expected an object such as {{"text": "…"}}')
        yield index, (line, row)


def _read_parquet(path: Path) -> Iterator[_Row]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        table = pq.read_table(path)
    except (ArrowException, OSError) as error:
        raise PromptError(f"{path} is not a readable Parquet file ({error})") from error
    if "text" not in table.column_names:
        raise PromptError(f"{path}: no column 'text'; found {', '.join(table.column_names)}")
    for index, row in enumerate(table.to_pylist()):
        yield index, (index + 1, row)
