"""Alignment of the tokens of two prompts, and the tokens that each view selects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroscope.align import VIEWS, align, view_positions
from neuroscope.tokens import Tokens, is_punctuation

SPECIAL = ("[CLS]", "[SEP]", "<s>")
PIECES = (*SPECIAL, ".", ",", "!", "cat", "dog", "the", "black")


def tokens(text):
    """Return the tokens of a text split at blanks; equal tokens have equal ids."""
    texts = tuple(text.split())
    ids = tuple(int.from_bytes(text.encode(), "big") for text in texts)
    return Tokens(ids, texts, tuple(text in SPECIAL for text in texts))


def spans(a, b):
    """Return the replaced tokens of both prompts, as texts."""
    a, b = tokens(a), tokens(b)
    alignment = align(a, b)
    return " ".join(a.texts[alignment.span_a]), " ".join(b.texts[alignment.span_b])


def views(a, b):
    """Return, by view, the weight of each token at each position, for both prompts."""
    identities = np.eye(len(a), dtype=np.float32), np.eye(len(b), dtype=np.float32)
    return view_positions(align(a, b), *identities, a.words, b.words)


@pytest.mark.parametrize(
    ("a", "b", "replaced"),
    [
        # one word for another, between special tokens
        ("[CLS] the cat sat . [SEP]", "[CLS] the dog sat . [SEP]", ("cat", "dog")),
        # at the start, in the middle and at the end; no special tokens
        ("cat sat here", "dog sat here", ("cat", "dog")),
        ("the cat here", "the dog here", ("cat", "dog")),
        ("here sat cat", "here sat dog", ("cat", "dog")),
        # spans of different lengths
        ("[CLS] a man . [SEP]", "[CLS] a trans ##gender . [SEP]", ("man", "trans ##gender")),
        ("a b c d e", "a x e", ("b c d", "x")),
        # two changes make one span
        ("the cat sat on mats", "the dog sat by mats", ("cat sat on", "dog sat by")),
        # nothing is shared
        ("a b", "c d e", ("a b", "c d e")),
        ("a", "b", ("a", "b")),
        # nothing differs
        ("[CLS] the cat . [SEP]", "[CLS] the cat . [SEP]", ("", "")),
        # only the final punctuation differs
        ("the cat .", "the cat !", (".", "!")),
        ("the cat . [SEP]", "the dog ! [SEP]", ("cat .", "dog !")),
        # a repeated word is not used by both ends
        ("the the", "the the the", ("the", "the the")),
        ("a b a", "a b a b a", ("a", "a b a")),
    ],
)
def test_align_finds_the_replaced_span(a, b, replaced):
    assert spans(a, b) == replaced
    assert spans(b, a) == replaced[::-1]


@pytest.mark.parametrize(
    ("a", "b", "replaced"),
    [
        # at the start: the next word joins
        ("cat sat", "black cat sat", ("cat", "black cat")),
        ("[CLS] cat [SEP]", "[CLS] black cat [SEP]", ("cat", "black cat")),
        # in the middle: the word after joins, not the one before
        ("[CLS] the cat . [SEP]", "[CLS] the black cat . [SEP]", ("cat", "black cat")),
        # at the end: the word before joins
        ("the cat", "the cat sat", ("cat", "cat sat")),
        ("[CLS] the cat . [SEP]", "[CLS] the cat sat . [SEP]", ("cat", "cat sat")),
        # punctuation inserted at the end
        ("[CLS] the cat [SEP]", "[CLS] the cat . [SEP]", ("cat", "cat .")),
        # no word is shared: a token joins
        ("[CLS] [SEP]", "[CLS] cat [SEP]", ("[SEP]", "cat [SEP]")),
        ("<s>", "<s> cat", ("<s>", "<s> cat")),
    ],
)
def test_an_insertion_extends_the_span_to_the_nearest_shared_word(a, b, replaced):
    assert spans(a, b) == replaced
    assert spans(b, a) == replaced[::-1]


def test_a_span_with_tokens_in_both_prompts_includes_no_special_token():
    assert spans("[CLS] cat [SEP]", "[CLS] . [SEP]") == ("cat", ".")


def test_words_leave_out_special_tokens_and_final_punctuation():
    prompt = tokens("[CLS] oh , the cat . ! [SEP]")
    assert prompt.content.tolist() == [False, True, True, True, True, True, True, False]
    assert prompt.words.tolist() == [False, True, True, True, True, False, False, False]
    assert not tokens("[CLS] . [SEP]").words.any()
    assert len(prompt) == 8


@pytest.mark.parametrize("token", [".", "...", "?!", "##.", "Ġ.", "▁!", "。", "”", "Ġ…", "¿"])
def test_punctuation_is_recognised_behind_word_markers(token):
    assert is_punctuation(token)


@pytest.mark.parametrize("token", ["", "Ġ", "▁", "a", "##a", "Ġa.", "a.", "$", "+", "1", "猫"])
def test_other_tokens_are_not_punctuation(token):
    assert not is_punctuation(token)


@pytest.mark.parametrize("mark", ["…", "”", "。", "»", "?”"])
def test_final_punctuation_of_byte_level_tokens_is_not_a_word(mark):
    printable = {byte: chr(byte) for byte in (*range(33, 127), *range(161, 173), *range(174, 256))}
    others = [byte for byte in range(256) if byte not in printable]
    letters = printable | {byte: chr(256 + index) for index, byte in enumerate(others)}  # as GPT-2
    piece = "".join(letters[byte] for byte in mark.encode())
    prompt = Tokens((1, 2, 3), ("the", "Ġcat", piece), (False, False, False))
    assert prompt.words.tolist() == [True, True, False]


@pytest.mark.parametrize("blank", ["Ċ", "ĊĊ", "▁", "Ġ", "<0x0A>"])
def test_a_final_token_of_blanks_is_not_a_word(blank):
    prompt = Tokens((1, 2, 3), ("cat", ".", blank), (False, False, False))
    assert prompt.words.tolist() == [True, False, False]


def test_views_of_a_replaced_word():
    a, b = tokens("[CLS] the cat sat . [SEP]"), tokens("[CLS] the ex dog sat . [SEP]")
    weights = views(a, b)
    assert tuple(weights) == VIEWS
    np.testing.assert_array_equal(weights["aligned"][0], np.eye(6))
    np.testing.assert_array_equal(weights["aligned"][1][2], [0, 0, 0.5, 0.5, 0, 0, 0])
    np.testing.assert_array_equal(weights["span"][0], [[0, 0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(weights["span"][1], [[0, 0, 0.5, 0.5, 0, 0, 0]])
    np.testing.assert_array_equal(weights["context"][0], np.eye(6)[[1, 3]])
    np.testing.assert_array_equal(weights["context"][1], np.eye(7)[[1, 4]])


def test_identical_prompts_have_an_empty_span():
    prompt = tokens("[CLS] the cat . [SEP]")
    weights = views(prompt, prompt)
    np.testing.assert_array_equal(weights["aligned"][0], np.eye(5))
    assert [weights["span"][side].shape for side in (0, 1)] == [(0, 5), (0, 5)]
    np.testing.assert_array_equal(weights["context"][1], np.eye(5)[[1, 2]])


def test_prompts_that_share_nothing_have_an_empty_context():
    weights = views(tokens("a b"), tokens("c d e f"))
    np.testing.assert_array_equal(weights["aligned"][1], [[0.25] * 4])
    np.testing.assert_array_equal(weights["span"][0], [[0.5, 0.5]])
    assert [weights["context"][side].shape for side in (0, 1)] == [(0, 2), (0, 4)]


def test_final_punctuation_counts_only_in_the_aligned_view():
    weights = views(tokens("the cat ."), tokens("the dog !"))
    np.testing.assert_array_equal(weights["aligned"][0], [[1, 0, 0], [0, 0.5, 0.5]])
    np.testing.assert_array_equal(weights["span"][0], [[0, 1, 0]])
    np.testing.assert_array_equal(weights["context"][0], [[1, 0, 0]])
    only_marks = views(tokens("the cat ."), tokens("the cat !"))
    assert len(only_marks["span"][0]) == len(only_marks["span"][1]) == 0


def test_a_decoder_without_special_tokens_is_aligned_by_its_words():
    weights = views(tokens("The Ġcat Ġsat ."), tokens("The Ġblack Ġdog Ġsat ."))
    assert [len(weights[view][0]) for view in VIEWS] == [4, 1, 2]
    np.testing.assert_array_equal(weights["span"][1], [[0, 0.5, 0.5, 0, 0]])
    np.testing.assert_array_equal(weights["context"][1], np.eye(5)[[0, 3]])


def longest_ends(a, b):
    """Return the longest shared beginning, then the longest shared end, by trying all lengths."""
    shortest = min(len(a), len(b))
    candidates = [
        (prefix, suffix)
        for prefix in range(shortest + 1)
        for suffix in range(shortest - prefix + 1)
        if a.ids[:prefix] == b.ids[:prefix] and a.ids[len(a) - suffix :] == b.ids[len(b) - suffix :]
    ]
    return max(candidates)


@st.composite
def framed(draw):
    """Draw two prompts that have the same special tokens, or none, around their words."""
    inner = st.lists(st.sampled_from(PIECES[len(SPECIAL) :]), min_size=1, max_size=6)
    frame = draw(st.sampled_from(["{}", "[CLS] {} [SEP]", "<s> {}"]))
    return tuple(tokens(frame.format(" ".join(draw(inner)))) for _ in "ab")


any_pair = st.tuples(*[st.lists(st.sampled_from(PIECES), min_size=1, max_size=7)] * 2).map(
    lambda pair: tuple(tokens(" ".join(texts)) for texts in pair)
)


@given(st.one_of(framed(), any_pair))
@settings(max_examples=150)
def test_shared_ends_are_equal_do_not_overlap_and_leave_spans_on_both_sides(pair):
    a, b = pair
    alignment = align(a, b)
    assert alignment.prefix >= 0 <= alignment.suffix
    assert alignment.prefix + alignment.suffix <= min(len(a), len(b))
    assert a.ids[: alignment.prefix] == b.ids[: alignment.prefix]
    assert a.ids[len(a) - alignment.suffix :] == b.ids[len(b) - alignment.suffix :]
    assert bool(a.ids[alignment.span_a]) == bool(b.ids[alignment.span_b])


@given(st.one_of(framed(), any_pair))
@settings(max_examples=150)
def test_views_pair_positions_and_the_aligned_view_covers_every_token(pair):
    weights = views(*pair)
    for view in VIEWS:
        assert len(weights[view][0]) == len(weights[view][1])
        for side in weights[view]:
            np.testing.assert_allclose(side.sum(axis=1), 1, rtol=1e-6)
    for side, prompt in enumerate(pair):
        assert (weights["aligned"][side] > 0).sum(axis=0).tolist() == [1] * len(prompt)
        span, context = ((weights[view][side] > 0).any(axis=0) for view in ("span", "context"))
        assert not (span & context).any()
        assert not (span | context)[~prompt.words].any()


@given(framed())
@settings(max_examples=150)
def test_the_span_is_the_shortest_that_an_exhaustive_search_finds(pair):
    a, b = pair
    prefix, suffix = longest_ends(a, b)
    alignment = align(a, b)
    inner = a.words[prefix : len(a) - suffix], b.words[prefix : len(b) - suffix]
    if bool(len(inner[0])) == bool(len(inner[1])) and inner[0].any() == inner[1].any():
        assert (alignment.prefix, alignment.suffix) == (prefix, suffix)
        return
    wider_spans = [(prefix, end) for end in range(suffix)] + [
        (start, suffix) for start in range(prefix)
    ]
    with_words = [
        (p, s)
        for p, s in wider_spans
        if (a.words[p : len(a) - s].any() and b.words[p : len(b) - s].any())
    ]
    if with_words:  # the span with the fewest tokens more; on a tie, the one that grows at its end
        assert (alignment.prefix, alignment.suffix) == max(
            with_words, key=lambda ends: (sum(ends), ends[0])
        )


@given(framed())
def test_alignment_is_symmetric(pair):
    forward, backward = align(*pair), align(*pair[::-1])
    assert (forward.prefix, forward.suffix) == (backward.prefix, backward.suffix)
    assert (forward.span_a, forward.span_b) == (backward.span_b, backward.span_a)
