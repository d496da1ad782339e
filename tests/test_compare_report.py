"""Reports of a comparison: the page, the text and the headline table."""

import base64
import datetime
import math
import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from html_page import HtmlPage

from neuroscope.align import VIEWS
from neuroscope.labels import pair_labels
from neuroscope.reporting.page import Page, PageFigure, render_page
from neuroscope.reporting.tables import NO_VALUE
from neuroscope.studies.compare.published import PublishedCheck, PublishedChecks
from neuroscope.studies.compare.result import Comparison, ComparisonRow, PairTokens
from neuroscope.studies.compare.tables import layers_table, summary_table
from neuroscope.studies.compare.text import to_text
from neuroscope.tokens import Tokens

MAN, WOMAN, CAT = "The engineer is a man.", "The engineer is a woman.", "The cat sleeps"
HOSTILE = """<script>alert("1")</script> & '"><img src=http://evil.example/x onerror=y>"""
OTHER_HOSTILE = HOSTILE.replace("alert", "prompt")
LINKS = {"run": "http://127.0.0.1:5000/#/runs/1?a=1&b=2", "docs": "https://example.org/"}


def row(layer, a, b, view, cosine):
    values = [cosine + step / 1000 for step in range(6)]
    return ComparisonRow(layer, a, b, view, *values, positions=0 if math.isnan(cosine) else 1)


def comparison(pairs=((MAN, WOMAN), (MAN, CAT)), layers=(0, 2)):
    """Return a comparison whose values encode layer, pair and view: 0.<layer><pair><view>."""
    rows = tuple(
        row(layer, *pair, view, float(f"0.{layer}{index}{column}"))
        for layer in layers
        for index, pair in enumerate(pairs)
        for column, view in enumerate(VIEWS)
    )
    surface = tuple(PairTokens(a, b, 6, 7, 0.625) for a, b in pairs)
    return Comparison("tiny", "resid_post", rows, surface, focus=(layers[-1],))


def tokens_of(result):
    prompts = dict.fromkeys(prompt for pair in result.text_pairs for prompt in pair)
    return {text: frame(text) for text in prompts}


def frame(text):
    words = ("[CLS]", *text.split(), "[SEP]")
    return Tokens(tuple(range(len(words))), words, (True, *(False for _ in words[2:]), True))


def without_span(result):
    """Return the comparison without values for the view of the replaced words."""
    rows = tuple(
        row(r.layer, r.a, r.b, r.view, math.nan) if r.view == "span" else r for r in result.rows
    )
    return replace(result, rows=rows)


def text_of(result, note="What does it ask?\n", published=PublishedChecks()):  # noqa: B008
    return to_text(result, note, tokens_of(result), published)


def html_of(result=None, *, page=None, **parts):
    """Return the page of a comparison; `page` and `parts` replace its content."""
    result = result or comparison()
    base = Page(
        title="engineer: tiny, resid_post",
        headline="",
        note="What does it ask?\n",
        warnings=result.notes,
        provenance={"model": "tiny", "revision": None, "versions": {"torch": "2.8", "numpy": "2"}},
        links=LINKS,
        date=datetime.datetime(2025, 5, 25, 10, 33, 19, tzinfo=datetime.UTC),
    )
    shown = {
        "comparison": result,
        "labels": pair_labels(result.text_pairs),
        "summary": summary_table(result),
        "layers": {layer: layers_table(result, [layer]) for layer in result.layers},
        "causal": False,
        "tokens": tokens_of(result),
        "published": PublishedChecks(),
        "figures": [],
        "omitted": "",
    }
    page = replace(base, **(page or {}))
    return render_page(("neuroscope.studies.compare", "page.html.j2"), page, **shown | parts)


def test_the_text_lists_prompts_tokens_and_figures():
    text = text_of(comparison(pairs=((MAN, WOMAN),), layers=(6,)))
    date = re.search(r"^Date: (.*)$", text, re.M)[1]
    assert text == (
        "Activation comparison for tiny, resid_post\n"
        f"Date: {date}\n"
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


def test_the_text_is_dated_now():
    before = datetime.datetime.now().replace(microsecond=0)
    shown = re.search(r"^Date: (.*)$", text_of(comparison()), re.M)[1]
    assert before <= datetime.datetime.fromisoformat(shown) <= datetime.datetime.now()


def test_the_text_holds_every_layer_and_pair():
    lines = re.findall(
        r"^(?:Layer (.*)|'(.*)' vs\. '(.*)'|Cosine Similarity: (.*))$", text_of(comparison()), re.M
    )
    assert ["".join(line) for line in lines] == [
        "resid_post.0",
        *(MAN + WOMAN, "0.0000", MAN + CAT, "0.0100"),
        "resid_post.2",
        *(MAN + WOMAN, "0.2000", MAN + CAT, "0.2100"),
    ]


def test_the_text_shows_a_dash_for_an_empty_view_and_omits_an_empty_note():
    text = text_of(without_span(comparison()), note=" \n")
    assert "(replaced words –, shared words 0.0040)" in text  # noqa: RUF001
    assert "nan" not in text.lower() and "Note:" not in text


def test_the_text_shows_published_figures_beside_the_measured_ones():
    check = PublishedCheck(MAN, WOMAN, 0.94801, 0.05399, 0.948, 0.054)
    text = text_of(comparison(), published=PublishedChecks([check], "Published elsewhere."))
    assert text.endswith(
        "Published elsewhere.\n"
        f"'{MAN}' vs. '{WOMAN}'\n"
        "Cosine Similarity: 0.9480 (published 0.9480)\n"
        "Mean Squared Error: 0.0540 (published 0.0540)\n"
        "\n"
    )


def test_a_check_without_a_value_shows_a_dash():
    checks = PublishedChecks([PublishedCheck(MAN, WOMAN, math.nan, 0.1, 0.948, 0.054)], "Elsewhere")
    assert "nan" not in text_of(comparison(), published=checks).lower()
    assert "nan" not in HtmlPage(html_of(published=checks)).cells


def test_the_summary_of_one_pair_shows_metrics_by_layer_and_explains_each_view():
    table = summary_table(comparison(pairs=((MAN, WOMAN),)))
    assert [section.title.partition(":")[0] for section in table.sections] == [
        *("replaced words (span)", "shared words (context)", "all tokens (aligned)")
    ]
    assert [column.heading for column in table.columns] == [
        *("layer", "standardised cosine", "cosine", "standardised difference", "MSE")
    ]
    assert [row[:3] for row in table.sections[0].rows] == [[0, 0.003, 0.001], [2, 0.203, 0.201]]
    assert table.notes[-1] == comparison(pairs=((MAN, WOMAN),)).headline


def test_the_summary_of_several_pairs_shows_the_standardised_cosine_of_each():
    table = summary_table(comparison())
    assert [column.heading for column in table.columns] == ["pair", "layer 0", "layer 2"]
    assert [row[0] for row in table.sections[0].rows] == [
        *("man vs woman", "engineer is a man vs cat sleeps")
    ]
    spans = [pytest.approx([0.003, 0.203]), pytest.approx([0.013, 0.213])]
    assert [row[1:] for row in table.sections[0].rows] == spans


def test_the_summary_of_many_pairs_shows_the_extremes():
    pairs = [(MAN, f"{WOMAN} {number}") for number in range(40)]
    rows = [
        row(layer, *pair, view, index / 100)
        for layer in range(12)
        for index, pair in enumerate(pairs)
        for view in VIEWS
    ]
    result = replace(comparison(pairs), rows=tuple(rows), focus=(5,))
    table = summary_table(result)
    least, most = table.sections
    assert [r[1] for r in least.rows] == pytest.approx([i / 100 + 0.002 for i in range(5)])
    assert [column.heading for column in table.columns[:3]] == ["pair", "extreme", "at layer"]
    assert [r[1] for r in most.rows] == pytest.approx([i / 100 + 0.002 for i in range(39, 34, -1)])
    assert {"layer 0", "layer 5", "layer 11"} < {column.heading for column in table.columns}
    assert len(table.columns) <= 10
    assert "man vs woman. 0" in table.notes[-1] and "(0.39)" in table.notes[-1]


def test_the_headline_names_the_first_of_the_extremes():
    rng = np.random.default_rng(0)
    pairs = [(f"A b {first}", f"A b {second}") for first, second in combinations(range(40), 2)]
    values = rng.uniform(-1, 1, (len(pairs), 20))
    for view in ("span", "aligned"):
        rows = [
            row(layer, *pair, other, values[index, layer] if other == view else math.nan)
            for index, pair in enumerate(pairs)
            for layer in range(20)
            for other in VIEWS
        ]
        result = replace(comparison(pairs), rows=tuple(rows))
        table = summary_table(result)
        for section, least in zip(table.sections, (True, False), strict=True):
            label, value, layer, *_ = section.rows[0]
            index = values.argmin() if least else values.argmax()
            assert (result.labels.index(label), layer) == divmod(int(index), 20)
            assert value == pytest.approx(values.flat[index] + 0.002)
            assert (
                f"{label} at layer {layer} (" in table.notes[-1]
                and f"{value:.2f}" in table.notes[-1]
            )


def test_the_layers_that_the_headline_names_are_shown():
    result = comparison(layers=range(30))
    rows = [replace(r, cosine_z={7: -1.0, 13: 2.0}.get(r.layer, 0.5)) for r in result.rows]
    headings = [
        column.heading for column in summary_table(replace(result, rows=tuple(rows))).columns
    ]
    assert {"layer 7", "layer 13"} < set(headings) and len(headings) <= 11


def test_many_pairs_are_labelled_with_the_ids_of_their_prompts():
    texts = [f"A cat sleeps on the mat in room {number}" for number in range(6)]
    pairs = tuple(
        PairTokens(texts[i], texts[j], 6, 6, 0.5, f"p{i}", f"p{j}")
        for i, j in combinations(range(6), 2)
    )
    many = replace(comparison(), pairs=pairs)
    assert many.labels[0] == "room 0 vs room 1 (prompts p0, p1)"
    assert replace(many, pairs=pairs[:12]).labels[0] == "0 vs 1"


def test_the_headline_names_the_extremes_of_the_replaced_words():
    pair, pairs = comparison(pairs=((MAN, WOMAN),)), comparison()
    assert re.findall(r"layer \d|0\.\d+", pair.headline) == ["layer 0", "0.00", "layer 2", "0.20"]
    assert re.findall(r"layer \d|0\.\d+", pairs.headline) == ["layer 0", "0.00", "layer 2", "0.21"]
    assert "all tokens" in without_span(pairs).headline
    nothing = [replace(r, cosine_z=math.nan) for r in pairs.rows]
    assert replace(pairs, rows=tuple(nothing)).headline == "No pair has words to compare."


def test_the_page_begins_with_the_headline_and_ends_with_every_layer():
    result = comparison()
    page = HtmlPage(html_of(result, page={"headline": result.headline}))
    assert [tag for tag, _ in page.elements].count("details") == 2
    assert page.text.index(result.headline) < page.text.index("How alike are the activations?")
    assert {"0.003", "0.213", "0.201"} <= set(page.cells)
    assert "0.0030" not in page.cells  # tables of several pairs have the same decimals


def test_the_page_shows_tokens_surface_and_provenance():
    page = HtmlPage(html_of())
    tokens = [attrs["class"] for tag, attrs in page.elements if tag == "span"]
    assert tokens.count("token special") == 3 * 2
    assert page.cells.count("0.6250") == 2
    assert "torch 2.8, numpy 2" in page.text and "What does it ask?" in page.text
    assert "2025-05-25 10:33:19 UTC" in page.text


def test_the_page_explains_what_a_cosine_does_not_measure():
    text = " ".join(HtmlPage(html_of()).text.split())
    assert "They do not measure whether what the model does is fair" in text
    assert "identical by construction" not in text
    causal = " ".join(HtmlPage(html_of(causal=True)).text.split())
    assert "everything before the replaced words is identical by construction" in causal


def test_the_page_shows_a_dash_for_an_empty_view():
    page = HtmlPage(html_of(without_span(comparison())))
    # two pairs at two layers: one metric of the view in the summary, three in the tables below
    assert page.cells.count(NO_VALUE) == 4 * 1 + 4 * 3
    assert "nan" not in page.cells


def test_the_page_is_self_contained():
    png = base64.b64decode("iVBORw0KGgo=")
    html = html_of(figures=[PageFigure("one.png", "A caption", png)], omitted="The rest.")
    page = HtmlPage(html)
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "iframe", "object"})
    assert page.count("script") == 1
    assert page.attributes("src") == ["data:image/png;base64,iVBORw0KGgo="]
    assert page.attributes("href") == list(LINKS.values())
    assert not re.search(r"@import|url\(", html)
    assert "A caption" in page.text and "The rest." in page.text
    addresses = re.findall(r'https?://[^"\s<]+', html)
    assert {address.replace("&amp;", "&") for address in addresses} == set(LINKS.values())


def test_the_page_without_links_figures_or_note_is_complete():
    page = HtmlPage(html_of(page={"links": {}, "note": "", "provenance": {}}))
    assert page.attributes("href") == page.attributes("src") == []
    assert "None" not in page.text


def test_user_text_is_escaped_on_the_page():
    result = replace(comparison(pairs=((HOSTILE, OTHER_HOSTILE),)), model=HOSTILE)
    figures = [PageFigure("one.png", HOSTILE, b"x")]
    shown = {
        "title": HOSTILE,
        "headline": HOSTILE,
        "note": HOSTILE,
        "warnings": [HOSTILE],
        "links": {HOSTILE: 'http://127.0.0.1/"><script>'},
        "provenance": {HOSTILE: HOSTILE, "versions": {HOSTILE: HOSTILE}},
    }
    checks = PublishedChecks([PublishedCheck(HOSTILE, "other", 0.1, 0.2, 0.3, 0.4)], HOSTILE)
    page = HtmlPage(html_of(result, page=shown, figures=figures, omitted=HOSTILE, published=checks))
    harmless = HtmlPage(html_of(figures=figures, published=checks))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in harmless.elements}
    assert page.attributes("onerror") == []
    assert page.attributes("src") == ["data:image/png;base64,eA=="]
    assert page.attributes("alt") == [HOSTILE]
    assert page.attributes("href") == ['http://127.0.0.1/"><script>']
    assert page.text.count(HOSTILE) >= 10


def test_hostile_tokens_are_escaped_on_the_page():
    tokens = {MAN: Tokens((0, 1), ("<script>", "</td>"), (True, False))}
    page = HtmlPage(html_of(tokens=tokens))
    assert page.count("script") == 1  # that of the page itself
    assert "<script></td>" in page.cells
