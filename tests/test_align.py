"""Which tokens of two prompts correspond, and what each view takes of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroscope.align import VIEWS, align, view_positions
from neuroscope.tokens import Tokens, is_punctuation

SPECIAL = ("[CLS]", "[SEP]", "<s>")
PIECES = (*SPECIAL, ".", ",", "!", "cat", "dog", "the", "black")


def tokens(text):
    """Tokens of words between blanks; one id for each distinct text."""
    texts = tuple(text.split())
    ids = tuple(int.from_bytes(text.encode(), "big") for text in texts)
    return Tokens(ids, texts, tuple(text in SPECIAL for text in texts))


def spans(a, b):
    """The prompts' replaced tokens, as texts."""
    a, b = tokens(a), tokens(b)
    found = align(a, b)
    return " ".join(a.texts[found.span_a]), " ".join(b.texts[found.span_b])


def views(a, b):
    """Each view's (positions, tokens) on both sides: which share of which token it holds."""
    held = np.eye(len(a), dtype=np.float32), np.eye(len(b), dtype=np.float32)
    return view_positions(align(a, b), *held, a.words, b.words)


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
def test_the_replaced_span(a, b, replaced):
    assert spans(a, b) == replaced
    assert spans(b, a) == replaced[::-1]


@pytest.mark.parametrize(
    ("a", "b", "replaced"),
    [
        # at the start: the next word joins
        ("cat sat", "black cat sat", ("cat", "black cat")),
        ("[CLS] cat [SEP]", "[CLS] black cat [SEP]", ("cat", "black cat")),
        # in the middle: of the words at either side, the one after joins
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
def test_where_words_are_only_inserted_the_nearest_shared_word_joins_the_span(a, b, replaced):
    assert spans(a, b) == replaced
    assert spans(b, a) == replaced[::-1]


def test_a_span_that_has_tokens_on_both_sides_takes_in_no_special_token():
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
def test_what_holds_a_letter_or_nothing_is_no_punctuation(token):
    assert not is_punctuation(token)


@pytest.mark.parametrize("mark", ["…", "”", "。", "»", "?”"])
def test_final_punctuation_is_no_word_where_tokens_are_pieces_of_bytes(mark):
    shown = {byte: chr(byte) for byte in (*range(33, 127), *range(161, 173), *range(174, 256))}
    hidden = [byte for byte in range(256) if byte not in shown]
    shown |= {byte: chr(256 + place) for place, byte in enumerate(hidden)}  # as GPT-2 writes bytes
    piece = "".join(shown[byte] for byte in mark.encode())
    prompt = Tokens((1, 2, 3), ("the", "Ġcat", piece), (False, False, False))
    assert prompt.words.tolist() == [True, True, False]


@pytest.mark.parametrize("blank", ["Ċ", "ĊĊ", "▁", "Ġ", "<0x0A>"])
def test_a_token_of_blanks_alone_is_no_word_at_the_end(blank):
    prompt = Tokens((1, 2, 3), ("cat", ".", blank), (False, False, False))
    assert prompt.words.tolist() == [True, False, False]


def test_views_of_a_replaced_word():
    a, b = tokens("[CLS] the cat sat . [SEP]"), tokens("[CLS] the ex dog sat . [SEP]")
    found = views(a, b)
    assert tuple(found) == VIEWS
    np.testing.assert_array_equal(found["aligned"][0], np.eye(6))
    np.testing.assert_array_equal(found["aligned"][1][2], [0, 0, 0.5, 0.5, 0, 0, 0])
    np.testing.assert_array_equal(found["span"][0], [[0, 0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(found["span"][1], [[0, 0, 0.5, 0.5, 0, 0, 0]])
    np.testing.assert_array_equal(found["context"][0], np.eye(6)[[1, 3]])
    np.testing.assert_array_equal(found["context"][1], np.eye(7)[[1, 4]])


def test_views_of_identical_prompts_hold_no_span():
    prompt = tokens("[CLS] the cat . [SEP]")
    found = views(prompt, prompt)
    np.testing.assert_array_equal(found["aligned"][0], np.eye(5))
    assert [found["span"][side].shape for side in (0, 1)] == [(0, 5), (0, 5)]
    np.testing.assert_array_equal(found["context"][1], np.eye(5)[[1, 2]])


def test_views_of_prompts_that_share_nothing_hold_no_context():
    found = views(tokens("a b"), tokens("c d e f"))
    np.testing.assert_array_equal(found["aligned"][1], [[0.25] * 4])
    np.testing.assert_array_equal(found["span"][0], [[0.5, 0.5]])
    assert [found["context"][side].shape for side in (0, 1)] == [(0, 2), (0, 4)]


def test_final_punctuation_counts_in_the_aligned_view_alone():
    found = views(tokens("the cat ."), tokens("the dog !"))
    np.testing.assert_array_equal(found["aligned"][0], [[1, 0, 0], [0, 0.5, 0.5]])
    np.testing.assert_array_equal(found["span"][0], [[0, 1, 0]])
    np.testing.assert_array_equal(found["context"][0], [[1, 0, 0]])
    only_marks = views(tokens("the cat ."), tokens("the cat !"))
    assert len(only_marks["span"][0]) == len(only_marks["span"][1]) == 0


def test_a_decoder_without_special_tokens_is_aligned_by_its_words():
    found = views(tokens("The Ġcat Ġsat ."), tokens("The Ġblack Ġdog Ġsat ."))
    assert [len(found[view][0]) for view in VIEWS] == [4, 1, 2]
    np.testing.assert_array_equal(found["span"][1], [[0, 0.5, 0.5, 0, 0]])
    np.testing.assert_array_equal(found["context"][1], np.eye(5)[[0, 3]])


def longest_ends(a, b):
    """The same by trying every pair of lengths: the longest beginning, then the longest end."""
    shortest = min(len(a), len(b))
    fitting = [
        (prefix, suffix)
        for prefix in range(shortest + 1)
        for suffix in range(shortest - prefix + 1)
        if a.ids[:prefix] == b.ids[:prefix] and a.ids[len(a) - suffix :] == b.ids[len(b) - suffix :]
    ]
    return max(fitting)


@st.composite
def framed(draw):
    """A pair of prompts of one model: special tokens at the ends or not, words between them."""
    inner = st.lists(st.sampled_from(PIECES[len(SPECIAL) :]), min_size=1, max_size=6)
    frame = draw(st.sampled_from(["{}", "[CLS] {} [SEP]", "<s> {}"]))
    return tuple(tokens(frame.format(" ".join(draw(inner)))) for _ in "ab")


any_pair = st.tuples(*[st.lists(st.sampled_from(PIECES), min_size=1, max_size=7)] * 2).map(
    lambda pair: tuple(tokens(" ".join(texts)) for texts in pair)
)


@given(st.one_of(framed(), any_pair))
@settings(deadline=None, max_examples=150)
def test_ends_never_overlap_are_equal_and_leave_no_lone_span(pair):
    a, b = pair
    found = align(a, b)
    assert found.prefix >= 0 <= found.suffix
    assert found.prefix + found.suffix <= min(len(a), len(b))
    assert a.ids[: found.prefix] == b.ids[: found.prefix]
    assert a.ids[len(a) - found.suffix :] == b.ids[len(b) - found.suffix :]
    assert bool(a.ids[found.span_a]) == bool(b.ids[found.span_b])


@given(st.one_of(framed(), any_pair))
@settings(deadline=None, max_examples=150)
def test_every_view_pairs_positions_and_the_aligned_one_covers_every_token(pair):
    found = views(*pair)
    for view in VIEWS:
        assert len(found[view][0]) == len(found[view][1])
        for held in found[view]:
            np.testing.assert_allclose(held.sum(axis=1), 1, rtol=1e-6)
    for side, prompt in enumerate(pair):
        assert (found["aligned"][side] > 0).sum(axis=0).tolist() == [1] * len(prompt)
        of_words = [(held[side] > 0).any(axis=0) for held in (found["span"], found["context"])]
        assert not (of_words[0] & of_words[1]).any()
        assert not (of_words[0] | of_words[1])[~prompt.words].any()


@given(framed())
@settings(deadline=None, max_examples=150)
def test_the_span_is_the_least_that_a_search_of_all_lengths_finds(pair):
    a, b = pair
    prefix, suffix = longest_ends(a, b)
    found = align(a, b)
    inner = a.words[prefix : len(a) - suffix], b.words[prefix : len(b) - suffix]
    if bool(len(inner[0])) == bool(len(inner[1])) and inner[0].any() == inner[1].any():
        assert (found.prefix, found.suffix) == (prefix, suffix)
        return
    wider = [(prefix, end) for end in range(suffix)] + [(start, suffix) for start in range(prefix)]
    holding = [
        (p, s)
        for p, s in wider
        if (a.words[p : len(a) - s].any() and b.words[p : len(b) - s].any())
    ]
    if holding:  # the one that takes in the fewest tokens, at the end before at the beginning
        assert (found.prefix, found.suffix) == max(holding, key=lambda ends: (sum(ends), ends[0]))


@given(framed())
@settings(deadline=None)
def test_alignment_is_the_same_seen_from_either_side(pair):
    one, other = align(*pair), align(*pair[::-1])
    assert (one.prefix, one.suffix) == (other.prefix, other.suffix)
    assert (one.span_a, one.span_b) == (other.span_b, other.span_a)
