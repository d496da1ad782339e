"""Columns of prompt files: which become ids, texts and labels."""

import contextlib
import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from neuroscope.errors import Option, PromptError
from neuroscope.prompts import Prompt

_AROUND = re.compile(r"^[\s\ufeff\u200b-\u200d\u2060]+|[\s\ufeff\u200b-\u200d\u2060]+$")
_INDEX = re.compile(r"__index_level_\d+__")
_LETTER = re.compile(r"[^\W\d_]")
_SAMPLE = 20  # rows from which the column of texts is guessed
_ORDINALS = {"a_column": "first", "b_column": "second"}


@dataclass(frozen=True)
class Columns:
    """Columns of a file that become texts and labels."""

    text: str
    labels: tuple[str, ...] | None

    @classmethod
    def of(cls, text_column: str, label_columns: Sequence[str] | None) -> "Columns":
        return cls(text_column, None if label_columns is None else tuple(label_columns))

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Return the names of a file's columns that are read."""
        if self.labels is None:
            return [name for name in names if name == self.text or not _is_index(name)]
        return [name for name in names if name in (self.text, "id", *self.labels)]

    def check(
        self, names: Sequence[str], prefix: str, rows: Iterable[Mapping[str, object]] = ()
    ) -> None:
        """Raise PromptError if a column is missing, or if two that are read have the same name.

        Args:
            names: names of the file's columns.
            prefix: start of the error message, such as `line 1: `; may be empty.
            rows: rows of the file, of which the first are read if the column of texts is missing.
        """
        available = ", ".join(filter(None, names)) or "nothing"
        if self.text not in names:
            raise PromptError(
                f"{prefix}no column '{self.text}'; found {available}",
                options=[
                    Option("text_column", name, "name the column that contains the texts")
                    for name in _columns_of_texts(rows)[:1]
                ],
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
        text = _filled(row, self.text, position)
        others = (name for name in self.chosen(list(row)) if name not in ("id", self.text))
        names = others if self.labels is None else self.labels
        values = ((name, row[name]) for name in names)
        labels = {name: _text(value) for name, value in values if not _is_blank(value)}
        id = row.get("id")
        return Prompt(str(index) if id in (None, "") else _text(id), text, labels, position)


@dataclass(frozen=True)
class PairColumns(Columns):
    """Columns of a file of pairs: `text` is that of the first prompts, and `other` the second.

    The second prompt is a label of the first.
    """

    other: str = ""

    def check(
        self, names: Sequence[str], prefix: str, rows: Iterable[Mapping[str, object]] = ()
    ) -> None:
        """Raise PromptError if a column is missing, with the nearest one as the remedy."""
        if self.text == self.other:
            raise PromptError(f"both prompts of a pair are in the column '{self.text}'")
        if missing := [name for name in (self.text, self.other) if name not in names]:
            absent = " and ".join(f"no column '{name}'" for name in missing)
            found = ", ".join(filter(None, names)) or "nothing"
            raise PromptError(
                f"{prefix}{absent}; found {found}", options=list(self._nearest(names, rows))
            )
        super().check(names, prefix)

    def _nearest(
        self, names: Sequence[str], rows: Iterable[Mapping[str, object]]
    ) -> Iterator[Option]:
        """Yield the column to name in place of each that is missing: by its name, or its texts."""
        unused = [name for name in names if name and name not in (self.text, self.other)]
        texts = [name for name in _columns_of_texts(rows) if name in unused]
        for option, name in (("a_column", self.text), ("b_column", self.other)):
            near = get_close_matches(name, unused, n=1) or texts
            if name not in names and near:
                purpose = f"name the column of the {_ORDINALS[option]} prompts"
                yield Option(option, near[0], purpose)
                unused, texts = ([n for n in left if n != near[0]] for left in (unused, texts))

    def prompt(self, index: int, position: str, row: Mapping[str, object]) -> Prompt:
        """Return the first prompt of a row; raise PromptError unless the second differs from it."""
        prompt = super().prompt(index, position, row)
        if _filled(row, self.other, position).split() == prompt.text.split():
            raise PromptError(
                f"{position}: '{self.text}' and '{self.other}' are equal",
                remedy="let them differ in the words that are studied, or remove the row",
            )
        return prompt


def _filled(row: Mapping[str, object], name: str, position: str) -> str:
    """Return the text of a column; raise PromptError if it is blank or not text."""
    text = row[name]
    if not isinstance(text, str) or not text.strip():
        fault = "blank" if text is None or isinstance(text, str) else f"{text!r}, not text"
        raise PromptError(f"{position}: '{name}' is {fault}", remedy="give every row a text")
    return text


def plain_heading(name: str) -> str:
    """Return the name of a column without blanks and invisible letters around it.

    >>> plain_heading(" topic")
    'topic'
    """
    return _AROUND.sub("", name)


def _is_index(name: str) -> bool:
    """Return whether a column is the unnamed index of a data frame, as pandas writes it."""
    return not name or bool(_INDEX.fullmatch(name))


def _columns_of_texts(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """Return the names of the columns whose first rows contain words.

    A column `text` comes first, then those with the longest texts.
    """
    lengths: Counter[str] = Counter()
    with contextlib.suppress(csv.Error, PromptError):  # a fault in a row is not the one to report
        for row in itertools.islice(rows, _SAMPLE):
            for name, value in row.items():
                if name and name != "id" and isinstance(value, str) and _LETTER.search(value):
                    lengths[name] += len(value)
    names = [name for name, _ in lengths.most_common() if not _is_index(name)]
    return sorted(names, key=lambda name: name != "text")


def _is_blank(value: object) -> bool:
    """Return whether a cell is empty: the prompt then lacks the label."""
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: object) -> str:
    """Return an id or a label as text; lists, objects and booleans are written as JSON."""
    if isinstance(value, bytes):
        return value.decode()
    nested = isinstance(value, dict | list | bool)
    return json.dumps(value, ensure_ascii=False, default=str) if nested else str(value)
