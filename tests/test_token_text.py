"""Tokens as they are read, for each way in which tokenizers mark words."""

import pytest

from neuroscope.tokens import Vocabulary

WORDS = {
    "Ġ": ("<s>", "Ġcoach", "ing", "Sports", "Ċ", "âĢ", "âĢ¦", "Ġ42", "ĠO"),
    "▁": ("<s>", "▁coach", "ing", "Sports", "<0x0A>", "<0xE2>", "…", "▁42", "▁O"),
    "##": ("<s>", "coach", "##ing", "Sports", "\n", "?", "…", "42", "O"),
}


@pytest.mark.parametrize("marker", WORDS)
def test_tokens_are_readable(marker):
    vocabulary = Vocabulary(WORDS[marker], frozenset([0]), None)
    assert vocabulary.word_marker == marker
    ids = range(9)
    shown = [vocabulary.display(id) for id in ids]
    part = "?" if marker == "##" else "\N{REPLACEMENT CHARACTER}"
    assert shown == ["<s>", "coach", "-ing", "Sports", "↵", part, "…", "42", "O"]
    words = [vocabulary.display(id) for id in ids if vocabulary.is_word(id)]
    assert words == (["coach"] if marker in "Ġ▁" else ["coach", "Sports"])
    text = "".join(vocabulary.spelled(id) for id in (1, 2, 7))
    assert text == " coaching 42"


def test_a_vocabulary_without_marks_has_words_only():
    vocabulary = Vocabulary(("the", "cat", "?"), frozenset(), None)
    assert vocabulary.word_marker == "" and vocabulary.display(1) == "cat"
    assert "".join(map(vocabulary.spelled, range(3))) == " the cat?"
    assert [vocabulary.is_word(id) for id in range(3)] == [True, True, False]
