"""Labels of pairs, comparisons as tables, and library versions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscope import provenance
from neuroscope.labels import pair_labels
from neuroscope.reporting.tables import rows_to_frame
from neuroscope.studies.compare.result import (
    METRICS,
    Comparison,
    ComparisonRow,
    PairTokens,
)


def row(layer=0, a="x", b="y", view="aligned", cosine=0.5, positions=3):
    return ComparisonRow(layer, a, b, view, cosine, 0.1, 0.2, 0.3, 0.4, 0.05, positions)


def label(a, b):
    return pair_labels([(a, b)])[a, b]


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ("The cat is on the mat", "The dog is on the mat", "cat vs dog"),
        ("The engineer is a man.", "The engineer is a woman.", "man vs woman"),
        ("cat", "dog", "cat vs dog"),
        ("Cats sleep.", "Dogs sleep.", "Cats vs Dogs"),
        ("The cat", "The black cat", "(nothing) vs black"),
        ("The cat", "The cat sat down", "(nothing) vs sat down"),
        ("the the", "the the the", "(nothing) vs the"),
        ("A red cat sat", "A very old dog sat", "red cat vs very old dog"),
        ("nothing shared", "at all", "nothing shared vs at all"),
        ("The cat.", "The cat", "cat. vs cat"),
        ("Is it so?", "Is it so!", "so? vs so!"),
        ("a ! b", "a ? b", "! vs ?"),
    ],
)
def test_a_pair_is_labelled_by_the_words_that_differ(a, b, words):
    assert label(a, b) == words


def test_long_spans_are_truncated():
    first, second = label("a" * 30, "b" * 31).split(" vs ")
    assert first == "a" * 30
    assert second == "b" * 29 + "…"


def test_shared_words_in_the_middle_of_long_spans_are_left_out():
    texts = [
        "The cat sleeps on the mat number 34 today",
        "A dog sleeps on the mat number 38 today",
    ]
    assert label(*texts) == "The cat … 34 vs A dog … 38"
    assert label(f"x {'a b ' * 20} 1", f"{'a b ' * 20} 2") == "x … 1 vs 2"


def test_ids_tell_pairs_apart_that_would_have_the_same_name():
    pairs, ids = [("A cat", "A dog"), ("A cat ", "A dog ")], [("a", "b"), ("c", "d" * 50)]
    assert list(pair_labels(pairs, ids).values()) == [
        *("cat vs dog (A)", f"cat vs dog (prompts c, {'d' * 11}…)")
    ]
    named = pair_labels(pairs[:1], ids[:1], with_ids=True)
    assert list(named.values()) == ["cat vs dog (prompts a, b)"]


def test_pairs_with_the_same_words_are_told_apart_by_those_that_they_share():
    pairs = [(f"{word} cat", f"{word} dog") for word in ("A", "The", "My")]
    assert list(pair_labels(pairs)) == pairs
    assert list(pair_labels(pairs).values()) == [
        *("cat vs dog (A)", "cat vs dog (The)", "cat vs dog (My)")
    ]
    same = [("A cat", "A dog"), ("A cat ", "A dog ")]
    assert list(pair_labels(same).values()) == ["cat vs dog (A)", "cat vs dog (A) #2"]


def test_numbers_that_occur_in_prompts_are_not_used_again():
    pairs = [("x", "y #3"), ("x", "y"), ("p x", "p y")]
    assert len(set(pair_labels(pairs).values())) == 3


def test_prompts_that_differ_only_in_blanks_have_a_label():
    assert label("a b", "a  b") == "(nothing) vs (nothing)"


words = st.lists(st.sampled_from(["x", "y", "#2", "#3", "x.", "vs", "z" * 40]), max_size=4)


@given(st.lists(words.map(" ".join), min_size=2, max_size=6, unique=True))
def test_labels_are_distinct_and_in_the_order_of_the_pairs(prompts):
    pairs = list(itertools.combinations(prompts, 2))
    labels = pair_labels(pairs)
    assert list(labels) == pairs
    assert len(set(labels.values())) == len(pairs)


def test_a_comparison_has_one_table_row_per_layer_pair_and_view():
    rows = (row(0), row(0, view="span", cosine=math.nan, positions=0), row(2, b="z", cosine=0.75))
    pairs = (PairTokens("x", "y", 3, 4, 0.5), PairTokens("x", "z", 3, 3, 1.0))
    comparison = Comparison("tiny", "resid_post", rows, pairs, focus=(0,))
    frame = comparison.to_frame()
    assert list(frame.columns) == ["layer", "a", "b", "view", *METRICS, "positions"]
    assert frame["layer"].tolist() == [0, 0, 2]
    np.testing.assert_array_equal(frame["cosine"], [0.5, math.nan, 0.75])
    assert frame.query("layer == 2")["b"].item() == "z"
    assert frame["positions"].dtype.kind == "i"
    assert rows_to_frame(pairs)["jaccard"].tolist() == [0.5, 1.0]


def test_layers_are_distinct_and_ascending():
    comparison = Comparison("tiny", "resid_post", (row(8), row(1), row(8, view="span")), (), ())
    assert comparison.layers == (1, 8)
    assert comparison.run_id is None


def test_no_rows_become_an_empty_table():
    assert len(rows_to_frame([])) == 0


def test_versions_include_python_and_installed_libraries():
    versions = provenance.library_versions()
    assert versions["numpy"] == np.__version__
    assert {"python", "neuroscope", "torch", "transformers"} <= set(versions)
    assert all(version[0].isdigit() for version in versions.values())


def test_a_library_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(provenance, "_LIBRARIES", ("numpy", "no-library-of-this-name"))
    assert list(provenance.library_versions()) == ["python", "numpy"]


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "neuroscope" / "provenance.py"))
    assert provenance.git_commit() is None
