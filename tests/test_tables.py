"""Tables, declared once and rendered as Markdown and on the terminal."""

import io
import math
import re

import pytest
from rich.console import Console

from flows import display
from neuroscope.reporting.tables import (
    NO_VALUE,
    Column,
    Section,
    Table,
    number,
    to_markdown,
)

TABLE = Table(
    "tiny, resid_post",
    [Column("pair"), Column("cosine", "aligned"), Column("MSE", "aligned"), Column("n", "span")],
    [
        Section("layer 0", [["man vs woman", 0.25, 1.5, 3]]),
        Section("layer 1", [["x", math.nan, 2.0, None]]),
    ],
    ["One of two."],
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.94804, "0.9480"),
        (1, "1.0000"),
        (-0.5, "-0.5000"),
        (-1e-5, "0.0000"),
        (12345.678, "12345.6780"),
    ],
)
def test_a_number_has_four_decimals(value, shown):
    assert number(value) == shown


def test_no_value_is_a_dash():
    assert number(math.nan) == Column("").text(None) == NO_VALUE == "–"  # noqa: RUF001
    column = Column("", digits=1)
    assert [column.text(cell) for cell in (3, "x", 0.54)] == ["3", "x", "0.5"]


def test_a_tiny_value_is_shown_as_below_the_last_digit():
    column = Column("q", digits=3, tiny=True)
    cells = (1e-30, 0.0, 0.0012, 0.05, math.nan, None)
    assert [column.text(cell) for cell in cells] == [
        *("<0.001", "<0.001", "0.001", "0.050", NO_VALUE, NO_VALUE)
    ]


def test_groups_span_their_columns():
    assert TABLE.groups() == [("", 1), ("aligned", 2), ("span", 1)]
    assert [TABLE.is_text(index) for index in range(4)] == [True, False, False, False]


def test_markdown_has_every_section_and_note():
    assert to_markdown(TABLE).splitlines() == [
        "### tiny, resid\\_post",
        "",
        "**layer 0**",
        "",
        "| pair | aligned cosine | aligned MSE | span n |",
        "| --- | ---: | ---: | ---: |",
        "| man vs woman | 0.2500 | 1.5000 | 3 |",
        "",
        "**layer 1**",
        "",
        "| pair | aligned cosine | aligned MSE | span n |",
        "| --- | ---: | ---: | ---: |",
        "| x | – | 2.0000 | – |",  # noqa: RUF001
        "",
        "- One of two.",
    ]


def test_markdown_escapes_hostile_text():
    rows = [["a | b `c`"], ["![x](http://evil.example)\n<script>"]]
    lines = to_markdown(Table("<b>", [Column("pair")], [Section("", rows)])).splitlines()
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:]] == [2] * 4
    assert not re.search(r"(?<!\\)[<`!\[]", "".join(lines))


def test_the_terminal_shows_the_same_cells(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(display, "output", Console(file=shown, width=80))
    display.show_table(TABLE)
    lines = shown.getvalue().splitlines()
    assert lines[0] == "tiny, resid_post" and lines[-1] == "One of two."
    (row,) = [line for line in lines if line.startswith("man vs woman")]
    assert row.split() == ["man", "vs", "woman", "0.2500", "1.5000", "3"]


def test_a_table_wider_than_the_terminal_shows_every_number_in_full(monkeypatch):
    printed = io.StringIO()
    monkeypatch.setattr(display, "output", Console(file=printed, width=20))
    values = [0.123456 + 1000 * index for index in range(8)]
    columns = [Column(f"quite a long heading {index}") for index in range(8)]
    display.show_table(Table("wide", columns, [Section("", [values])]))
    assert all(number(value) in printed.getvalue() for value in values)
    assert "…" not in printed.getvalue()
