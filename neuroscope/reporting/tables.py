"""Tables for readers, declared once and rendered in the terminal, in Markdown and in HTML."""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from neuroscope.reporting.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

Cell = str | int | float | None
"""Value of a cell; None if there is no value."""
NO_VALUE = "\u2013"  # en dash
"""Text of a cell without a value."""


@dataclass(frozen=True)
class Column:
    """Column of a table; columns of the same `group` share a heading above their own."""

    heading: str
    group: str = ""
    meaning: str = ""
    """Meaning of its values, shown where there is room."""
    digits: int = 4
    """Number of decimals."""
    tiny: bool = False
    """Whether a value that would be rounded to zero is shown as below the last digit: <0.001."""

    def text(self, cell: Cell) -> str:
        """Return the text of a cell: strings and integers unchanged, other numbers rounded."""
        if cell is None:
            return NO_VALUE
        if self.tiny and isinstance(cell, float) and abs(cell) < 10**-self.digits:
            return f"<{10**-self.digits:.{self.digits}f}"
        return number(cell, self.digits) if isinstance(cell, float) else str(cell)

    @classmethod
    def of(cls, metric: Metric, *, heading: str = "", group: str = "") -> "Column":
        """Return the column of a metric, with another heading than the metric's if one is given."""
        return cls(heading or metric.heading, group, metric.meaning, metric.digits)


@dataclass(frozen=True)
class Section:
    """Rows of a table with a title, which is empty if the table has only one section."""

    title: str
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Table:
    """Table of cells in one or more sections.

    >>> table = Table("minilm", [Column("layer"), Column("cosine")], [Section("", [[0, 0.9]])])
    >>> print(to_markdown(table))
    ### minilm
    <BLANKLINE>
    | layer | cosine |
    | ---: | ---: |
    | 0 | 0.9000 |
    """

    title: str
    columns: Sequence[Column]
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    """Sentences shown below the table."""

    def groups(self) -> list[tuple[str, int]]:
        """Return the headings of groups, each with the number of columns that it covers."""
        names = itertools.groupby(column.group for column in self.columns)
        return [(name, len(list(columns))) for name, columns in names]

    def texts(self, row: Sequence[Cell]) -> list[str]:
        """Return the texts of the cells of a row."""
        return [column.text(cell) for column, cell in zip(self.columns, row, strict=True)]

    def is_text(self, index: int) -> bool:
        """Return whether a column holds text, which is aligned to the left."""
        cells = (row[index] for section in self.sections for row in section.rows)
        return any(isinstance(cell, str) for cell in cells)


def number(value: float, digits: int = 4) -> str:
    """Format a number with `digits` decimals, zero without a sign, or return a dash for NaN."""
    return NO_VALUE if math.isnan(value) else f"{value:z.{digits}f}"


def enough_digits(values: Iterable[float], usual: int) -> int:
    """Return the number of decimals with which the largest of some values has two digits or more.

    >>> enough_digits([0.0, 4.64e-5, 1.2e-5], 3), enough_digits([0.25, 3.1e-9], 3)
    (6, 3)
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return usual if largest == 0 else min(max(usual, 1 - math.floor(math.log10(largest))), 12)


def to_markdown(table: Table) -> str:
    """Return a table as GitHub-flavoured Markdown; the text of cells is escaped."""
    names = [f"{column.group} {column.heading}".strip() for column in table.columns]
    rules = ["---" if table.is_text(index) else "---:" for index in range(len(names))]
    lines = [f"### {plain_markdown(table.title)}"]
    for section in table.sections:
        if section.title:
            lines += ["", f"**{plain_markdown(section.title)}**"]
        lines += ["", _row(map(plain_markdown, names)), _row(rules)]
        lines += [_row(map(plain_markdown, table.texts(row))) for row in section.rows]
    if table.notes:
        lines += ["", *(f"- {plain_markdown(note)}" for note in table.notes)]
    return "\n".join(lines)


def plain_markdown(text: str) -> str:
    """Return a text as one line, escaped so that Markdown shows it literally."""
    return re.sub(r"([\\`*_\[\]<>!|])", r"\\\1", text.replace("\n", " "))


def _row(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def rows_to_frame(rows: Sequence[Any]) -> "pd.DataFrame":
    """Return instances of one dataclass as a data frame with one column per field."""
    import pandas as pd

    columns = [field.name for field in fields(rows[0])] if rows else None
    return pd.DataFrame([asdict(row) for row in rows], columns=columns)
