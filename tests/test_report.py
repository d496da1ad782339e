"""A comparison as a page, as text and as Markdown."""

import base64
import datetime
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from neuroscope.align import VIEWS
from neuroscope.reporting.report import (
    NO_VALUE,
    ComparisonReport,
    PublishedCheck,
    ReportFigure,
    number,
    to_html,
    to_markdown,
    to_text,
)
from neuroscope.results import Comparison, ComparisonRow, PairTokens
from neuroscope.tokens import Tokens

MAN, WOMAN, CAT = "The engineer is a man.", "The engineer is a woman.", "The cat sleeps"
HOSTILE = """<script>alert("1")</script> & '"><img src=http://evil.example/x onerror=y>"""
OTHER_HOSTILE = HOSTILE.replace("alert", "prompt")
LINKS = {"run": "http://127.0.0.1:5000/#/runs/1?a=1&b=2", "docs": "https://example.org/"}


def row(layer, a, b, view, cosine):
    values = [cosine + step / 1000 for step in range(6)]
    return ComparisonRow(layer, a, b, view, *values, positions=0 if math.isnan(cosine) else 1)


def make(pairs=((MAN, WOMAN), (MAN, CAT)), layers=(0, 2), **changes):
    """A report whose figures tell layer, pair and view apart: 0.<layer><pair><view>."""
    rows = tuple(
        row(layer, *pair, view, float(f"0.{layer}{index}{place}"))
        for layer in layers
        for index, pair in enumerate(pairs)
        for place, view in enumerate(VIEWS)
    )
    surface = tuple(PairTokens(a, b, 6, 7, 0.625) for a, b in pairs)
    prompts = dict.fromkeys(prompt for pair in pairs for prompt in pair)
    report = ComparisonReport(
        name="engineer",
        note="What does it ask?\n",
        comparison=Comparison("tiny", "resid_post", rows, surface),
        tokens={text: frame(text) for text in prompts},
        focus=(layers[-1],),
        causal=False,
        provenance={"model": "tiny", "revision": None, "versions": {"torch": "2.8", "numpy": "2"}},
        links=LINKS,
        date=datetime.datetime(2025, 5, 25, 10, 33, 19, tzinfo=datetime.UTC),
    )
    return replace(report, **changes)


def frame(text):
    words = ("[CLS]", *text.split(), "[SEP]")
    return Tokens(tuple(range(len(words))), words, (True, *(False for _ in words[2:]), True))


def without_span(report):
    """The report with no value where the view is of the replaced words."""
    rows = tuple(
        row(one.layer, one.a, one.b, one.view, math.nan) if one.view == "span" else one
        for one in report.comparison.rows
    )
    return replace(report, comparison=replace(report.comparison, rows=rows))


class Page(HTMLParser):
    """Elements of a page with their attributes, its text, and which element was closed when."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text, self.cells = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.elements if name in attrs]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.94804, "0.9480"), (1, "1.0000"), (-0.5, "-0.5000"), (12345.678, "12345.6780")],
)
def test_a_number_has_four_decimals(value, shown):
    assert number(value) == shown


def test_no_value_is_a_dash():
    assert number(math.nan) == NO_VALUE == "–"  # noqa: RUF001


def test_the_text_has_the_form_of_the_first_tables():
    text = to_text(make(pairs=((MAN, WOMAN),), layers=(6,)))
    assert text == (
        "Activation comparison for tiny, resid_post\n"
        "Date: 2025-05-25 10:33:19\n"
        "Note: What does it ask?\n"
        "\n"
        f"Prompt: {MAN}\n"
        "Tokens: ['[CLS]', 'The', 'engineer', 'is', 'a', 'man.', '[SEP]']\n"
        "\n"
        f"Prompt: {WOMAN}\n"
        "Tokens: ['[CLS]', 'The', 'engineer', 'is', 'a', 'woman.', '[SEP]']\n"
        "\n"
        "Layer resid_post.6\n"
        "Activation Comparisons:\n"
        f"'{MAN}' vs. '{WOMAN}'\n"
        "Cosine Similarity: 0.6000\n"
        "Mean Squared Error: 0.6010\n"
        "Standardised Cosine: 0.6020 (replaced words 0.6030, shared words 0.6040)\n"
        "\n"
    )


def test_the_text_holds_every_layer_and_pair():
    text = to_text(make())
    found = re.findall(r"^(?:Layer (.*)|'(.*)' vs\. '(.*)'|Cosine Similarity: (.*))$", text, re.M)
    assert ["".join(one) for one in found] == [
        "resid_post.0",
        *(MAN + WOMAN, "0.0000", MAN + CAT, "0.0100"),
        "resid_post.2",
        *(MAN + WOMAN, "0.2000", MAN + CAT, "0.2100"),
    ]


def test_the_text_shows_a_dash_where_a_view_is_empty_and_no_note_where_there_is_none():
    text = to_text(without_span(make(note=" \n")))
    assert "(replaced words –, shared words 0.0040)" in text  # noqa: RUF001
    assert "nan" not in text.lower() and "Note:" not in text


def test_the_text_sets_reference_figures_beside_the_measured_ones():
    check = PublishedCheck(MAN, WOMAN, 0.94801, 0.05399, 0.948, 0.054)
    text = to_text(make(checks=[check], published_note="Published elsewhere."))
    assert text.endswith(
        "Published elsewhere.\n"
        f"'{MAN}' vs. '{WOMAN}'\n"
        "Cosine Similarity: 0.9480 (published 0.9480)\n"
        "Mean Squared Error: 0.0540 (published 0.0540)\n"
        "\n"
    )


def test_a_check_without_a_value_shows_a_dash():
    check = PublishedCheck(MAN, WOMAN, math.nan, 0.1, 0.948, 0.054)
    report = make(checks=[check], published_note="Published elsewhere.")
    assert "nan" not in to_text(report).lower()
    assert "nan" not in Page(to_html(report)).cells


def test_markdown_is_a_table_of_one_layer_with_the_links():
    lines = to_markdown(make().comparison, 2, LINKS).splitlines()
    assert lines[0] == "### tiny, resid_post.2"
    assert lines[2].count("|") == lines[3].count("|") == 7
    assert lines[4:6] == [
        "| man vs woman | 0.2000 | 0.2010 | 0.2020 | 0.2010 | 0.2020 |",
        "| engineer is a man vs cat sleeps | 0.2100 | 0.2110 | 0.2120 | 0.2110 | 0.2120 |",
    ]
    assert lines[8] == "Shown is layer 2 of 0 to 2; the report has all."
    assert lines[10:] == [f"[{name}]({address})" for name, address in LINKS.items()]


def test_markdown_shows_a_dash_where_a_view_is_empty():
    lines = to_markdown(without_span(make()).comparison, 0, {}).splitlines()
    assert lines[4] == "| man vs woman | 0.0000 | 0.0010 | 0.0020 | – | 0.0020 |"  # noqa: RUF001


def test_markdown_takes_hostile_prompts_as_text():
    pairs = (("a | b `c`", "a | <script>x</script>"), ("![x](http://evil.example)", "y"))
    lines = to_markdown(make(pairs=pairs).comparison, 0, {}).splitlines()
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:6]] == [7] * 4
    assert "<script>" not in lines[4]
    assert "![x](" not in lines[5] and "x](http" not in lines[5]


def test_the_page_shows_the_focus_first_then_every_layer():
    page = Page(to_html(make()))
    assert re.findall(r"How alike are the activations at (\S+)\?", page.text) == ["resid_post.2"]
    assert [tag for tag, _ in page.elements].count("details") == 2
    first = page.cells[page.cells.index("man vs woman") :][:13]
    aligned = ["2000", "2010", "2020", "2030", "2040", "2050"]
    assert [cell[2:] for cell in first[1:7]] == aligned
    assert [cell[2:] for cell in first[7:]] == ["2010", "2030", "2050", "2020", "2040", "2060"]
    # once in its own layer and, of the focus, a second time at the top
    assert [page.cells.count(shown) for shown in ("0.0000", "0.2000", "0.2100")] == [1, 2, 2]


def test_the_page_shows_tokens_surface_and_provenance():
    page = Page(to_html(make()))
    tokens = [attrs["class"] for tag, attrs in page.elements if tag == "span"]
    assert tokens.count("token special") == 3 * 2
    assert page.cells.count("0.6250") == 2
    assert "torch 2.8, numpy 2" in page.text and "What does it ask?" in page.text
    assert "2025-05-25 10:33:19 UTC" in page.text


def test_the_page_says_what_a_cosine_does_not_mean():
    said = " ".join(Page(to_html(make())).text.split())
    assert "They do not measure whether what the model does is fair" in said
    assert "identical by construction" not in said
    causal = " ".join(Page(to_html(make(causal=True))).text.split())
    assert "everything before the replaced words is identical by construction" in causal


def test_the_page_shows_a_dash_where_a_view_is_empty():
    page = Page(to_html(without_span(make())))
    # cosine, cosine z and RMS z, in two rows at the top and four below
    assert page.cells.count(NO_VALUE) == 3 * (2 + 4)
    assert "nan" not in page.cells


def test_the_page_needs_no_other_file():
    png = base64.b64decode("iVBORw0KGgo=")
    html = to_html(make(figures=[ReportFigure("one.png", "A caption", png)], left_out="The rest."))
    page = Page(html)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object"})
    assert page.attributes("src") == ["data:image/png;base64,iVBORw0KGgo="]
    assert page.attributes("href") == list(LINKS.values())
    assert not re.search(r"@import|url\(", html)
    assert "A caption" in page.text and "The rest." in page.text
    addresses = set(LINKS.values())
    assert {
        found.replace("&amp;", "&") for found in re.findall(r'https?://[^"\s<]+', html)
    } == addresses


def test_the_page_without_links_figures_or_note_is_whole():
    page = Page(to_html(make(links=None, note="", provenance={})))
    assert page.attributes("href") == page.attributes("src") == []
    assert "None" not in page.text


def test_everything_from_outside_is_escaped_on_the_page():
    hostile = make(
        pairs=((HOSTILE, OTHER_HOSTILE),),
        name=HOSTILE,
        note=HOSTILE,
        figures=[ReportFigure("one.png", HOSTILE, b"x")],
        left_out=HOSTILE,
        checks=[PublishedCheck(HOSTILE, "other", 0.1, 0.2, 0.3, 0.4)],
        published_note=HOSTILE,
        links={HOSTILE: 'http://127.0.0.1/"><script>'},
        provenance={HOSTILE: HOSTILE, "versions": {HOSTILE: HOSTILE}},
    )
    comparison = replace(hostile.comparison, model=HOSTILE)
    page = Page(to_html(replace(hostile, comparison=comparison)))
    harmless = Page(to_html(replace(make(figures=hostile.figures), published_note="x")))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in harmless.elements}
    assert page.attributes("onerror") == []
    assert page.attributes("src") == ["data:image/png;base64,eA=="]
    assert page.attributes("alt") == [HOSTILE]
    assert page.attributes("href") == ['http://127.0.0.1/"><script>']
    assert page.text.count(HOSTILE) >= 10


def test_hostile_tokens_are_escaped_on_the_page():
    tokens = {MAN: Tokens((0, 1), ("<script>", "</td>"), (True, False))}
    page = Page(to_html(make(tokens=tokens)))
    assert "script" not in {tag for tag, _ in page.elements}
    assert "<script></td>" in page.cells


def test_a_report_without_a_date_is_dated_now():
    before = datetime.datetime.now().replace(microsecond=0)
    shown = re.search(r"^Date: (.*)$", to_text(make(date=None)), re.M)[1]
    assert before <= datetime.datetime.fromisoformat(shown) <= datetime.datetime.now()
