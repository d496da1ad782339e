"""Sentences on what a study of associations found."""

from dataclasses import replace

import numpy as np

from neuroscope.studies.association.headline import headline
from neuroscope.studies.association.result import AssociationRow, PairRow

ROW = AssociationRow(
    0, "span", "nurse", "men", "women", *(-0.2, -0.3, -0.1), *(-0.1, -0.15, -0.05),
    *(0.001, 0.004), -2.0, *(-0.04, 0.04), *(0.001, 0.002), 8,
)  # fmt: skip
PAIR = PairRow(0, "span", "men", "women", 1, 0.2, 0.1, 0.5, 0.4, 0.6, 0.001, 0.002, 8)


def test_the_headline_says_how_much_remains_and_whose_it_is():
    sentence = headline([ROW], [PAIR])
    assert sentence.startswith(
        "At layer 0, 50% [40, 60] of the difference between 'women' and 'men' in similarity to"
        " 'nurse' remains"
    )
    assert "larger than those of random groups of words at layer 0 (q" in sentence


def test_the_headline_names_roles_on_both_sides():
    other = replace(ROW, role="engineer", raw=0.2, controlled=0.12, low=0.1, high=0.14)
    unsure = replace(ROW, role="baker", q=0.4)
    as_control_words = replace(ROW, role="teacher", q_words=0.6)
    rows = [ROW, other, unsure, as_control_words]
    sentence = headline(rows, [replace(PAIR, roles=4)])
    assert "the 4 roles" in sentence
    assert "engineer is nearer to men, and nurse to women" in sentence
    assert "baker" not in sentence and "teacher" not in sentence


def test_the_headline_says_when_nothing_remains():
    rows = [replace(ROW, q=0.5), replace(ROW, layer=1)]
    pairs = [replace(PAIR, share=0.04), replace(PAIR, layer=1)]
    assert "; at layer 0, none." in headline(rows, pairs)
    assert "nothing that can be told from chance is left" in headline([rows[0]], [pairs[0]])
    unclear = replace(PAIR, share=np.nan, share_low=np.nan, share_high=np.nan)
    assert headline([ROW], [unclear]).startswith("No difference")


def test_the_headline_says_when_control_words_show_as_much():
    sentence = headline([ROW], [replace(PAIR, q_words=0.4)])
    assert "Random groups of words show as large a contrast: it may" in sentence
    pairs = [PAIR, replace(PAIR, layer=1, q_words=0.4)]
    assert "at layer 0 only" in headline([ROW, replace(ROW, layer=1)], pairs)


def test_without_q_values_nothing_is_certain():
    row = replace(ROW, p=np.nan, q=np.nan, n=4)
    assert not row.certain and not row.significant
    assert headline([row], [replace(PAIR, n=4)]).startswith("There are too few templates (4)")


def test_the_headline_says_when_a_contrast_is_reversed_or_none_of_it_is_surface():
    reversed_ = replace(PAIR, layer=1, share=-0.5, share_low=-0.7, share_high=-0.2, controlled=0.01)
    rows = [ROW, replace(ROW, layer=1)]
    assert "; at layer 1, it is reversed." in headline(rows, [PAIR, reversed_])
    alone = headline(rows[1:], [reversed_])
    assert alone.startswith("At layer 1, the difference between 'women' and 'men'")
    assert "is reversed" in alone
    more = replace(PAIR, share=1.2, share_low=1.1, share_high=1.3)
    assert headline([ROW], [more]).startswith("At layer 0, all (120% [110, 130]) of the")
    unsure = replace(PAIR, layer=1, share=0.1, share_low=-0.1, share_high=0.3, controlled=0.01)
    assert "; at layer 1, none." in headline(rows, [PAIR, unsure])


def test_without_control_words_roles_are_compared_with_control_roles():
    none = {"p_words": np.nan, "q_words": np.nan}
    rows = [replace(ROW, **none), replace(ROW, role="baker", q=0.5, **none)]
    sentence = headline(rows, [replace(PAIR, roles=2, **none)])
    assert "Compared with their control roles, nurse is nearer to women" in sentence
    assert "random groups" not in sentence
