"""The word embedding association test, against planted vectors and enumeration."""

import itertools
import math

import numpy as np
import pytest

from neuroscope.stats.similarity import cosine
from neuroscope.stats.weat import Weat, weat

AXES = np.eye(4)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def sets(seed, words=(4, 4), attributes=(3, 2), shift=0.0):
    """Return vectors of two sets of words and of two sets of attributes."""
    x, y, a, b = (normal(seed + part, size, 12) for part, size in enumerate((*words, *attributes)))
    return x + shift * a.mean(axis=0), y, a, b


def associations(words, a, b):
    """Return s(w) of each word, from cosines pair by pair."""
    return np.array(
        [np.mean([cosine(w, v) for v in a]) - np.mean([cosine(w, v) for v in b]) for w in words]
    )


def enumerated(s, size):
    """Return the two-sided p-value over all divisions of the words."""
    divisions = itertools.combinations(range(len(s)), size)
    rest = [(np.delete(s, chosen), s[list(chosen)]) for chosen in divisions]
    differences = np.array([chosen.mean() - other.mean() for other, chosen in rest])
    observed = s[:size].mean() - s[size:].mean()
    tails = (differences >= observed - 1e-12).mean(), (differences <= observed + 1e-12).mean()
    return min(1.0, 2 * min(tails))


def test_words_that_are_attributes():
    x, y = AXES[[0, 0]] * [[1], [5]], AXES[[1, 1]] * 3
    measured = weat(x, y, AXES[[0]], AXES[[1]])
    # s is 1, 1, -1, -1: the difference of means is 2, and sd is sqrt(4 / 3)
    assert measured.d == pytest.approx(math.sqrt(3))
    # of 6 divisions, the observed one alone has the largest difference
    assert measured.p == pytest.approx(2 / 6)


def test_words_with_different_associations():
    x, y = AXES[[0, 2]], np.array([AXES[1], AXES[0] + AXES[2]])
    measured = weat(x, y, AXES[[0, 3]], AXES[[1, 3]])
    # cosines with (e0, e3) and (e1, e3): s is 1/2, 0 and -1/2, sqrt(1/2) / 2, as |e0 + e2| = sqrt 2
    s = np.array([0.5, 0, -0.5, math.sqrt(0.5) / 2])
    difference = 0.25 - (math.sqrt(0.5) / 2 - 0.5) / 2
    assert measured.d == pytest.approx(difference / math.sqrt(np.sum((s - s.mean()) ** 2) / 3))
    # 2 of 6 divisions have a difference as large: with 1/2 and sqrt(1/2) / 2 it is larger
    assert measured.p == pytest.approx(2 * 2 / 6)


@pytest.mark.parametrize("words", [(4, 4), (3, 5), (6, 6)])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_effect_size_and_p_value_are_those_of_all_divisions(words, shift):
    x, y, a, b = sets(0, words, shift=shift)
    s = associations([*x, *y], a, b)
    measured = weat(x, y, a, b)
    difference = s[: len(x)].mean() - s[len(x) :].mean()
    assert measured.d == pytest.approx(difference / s.std(ddof=1))
    assert measured.p == pytest.approx(enumerated(s, len(x)))


def test_random_divisions_are_used_for_many_words():
    x, y, a, b = sets(1, words=(8, 8), shift=0.5)
    expected = enumerated(associations([*x, *y], a, b), 8)
    error = 2 * math.sqrt(expected / 2 / 9999)
    assert weat(x, y, a, b).p == pytest.approx(expected, abs=3 * error)
    assert weat(x, y, a, b) == weat(x, y, a, b)


def test_swapped_sets_change_the_sign():
    x, y, a, b = sets(2, shift=1.0)
    measured = weat(x, y, a, b)
    for swapped in (weat(y, x, a, b), weat(x, y, b, a)):
        assert swapped.d == pytest.approx(-measured.d)
        assert swapped.p == pytest.approx(measured.p)
    assert weat(y, x, b, a).d == pytest.approx(measured.d) and measured.d > 0


def test_only_directions_matter():
    x, y, a, b = sets(3)
    measured = weat(7 * x, y * [[1], [2], [3], [4]], a.astype(np.float32), b / 100)
    assert measured.d == pytest.approx(weat(x, y, a, b).d, rel=1e-5)


def test_the_largest_effect_size_of_two_words_is_the_square_root_of_2():
    measured = weat(AXES[[0]], AXES[[1]], AXES[[0]], AXES[[1]])
    assert measured.d == pytest.approx(math.sqrt(2)) and math.isnan(measured.p)


@pytest.mark.parametrize("attributes", [AXES[[2]], normal(0, 3, 4)])
def test_words_that_are_associated_alike_have_no_effect_size(attributes):
    words = np.linspace(0.1, 7, 8)[:, None] * normal(1, 4)  # one direction
    measured = weat(words[:4], words[4:], attributes, normal(2, 3, 4))
    assert math.isnan(measured.d) and measured.p == 1
    alike = weat(words[:1], words[1:], attributes, attributes)
    assert math.isnan(alike.d) and math.isnan(alike.p)


def test_a_vector_of_zeros_is_associated_with_nothing():
    x = np.array([AXES[0], np.zeros(4)])
    measured = weat(x, AXES[[1, 1]], AXES[[0]], AXES[[1]])
    s = np.array([1, 0, -1, -1])
    assert measured == Weat(pytest.approx(1.5 / s.std(ddof=1)), pytest.approx(2 / 6))


@pytest.mark.parametrize("empty", range(4))
def test_an_empty_set_is_refused(empty):
    vectors = list(sets(4))
    vectors[empty] = vectors[empty][:0]
    with pytest.raises(ValueError, match="empty"):
        weat(*vectors)


def test_sentences_of_a_word_are_divided_together():
    rng = np.random.default_rng(0)
    words = rng.standard_normal((6, 1, 30))
    sentences = (words + 0.01 * rng.standard_normal((6, 13, 30))).reshape(-1, 30)
    a, b = rng.standard_normal((1, 30)), rng.standard_normal((8, 30))
    apart = weat(sentences[:39], sentences[39:], a, b)
    together = weat(sentences[:39], sentences[39:], a, b, per_word=13)
    alone = weat(words[:3, 0], words[3:, 0], a, b)
    assert together.d == apart.d and together.p >= 2 / 20  # of 20 divisions of six words
    assert together.p == pytest.approx(alone.p)
