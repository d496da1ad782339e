"""Which tokens of two prompts correspond: a shared beginning, a replaced span, a shared end."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neuroscope.tokens import Flags, Tokens

Floats = NDArray[np.float32]
VIEWS = ("aligned", "span", "context")
"""All positions, special tokens included; the replaced words only; the shared words only."""


@dataclass(frozen=True)
class Alignment:
    """Positions of two token sequences that correspond.

    The first `prefix` tokens are the same on both sides, so are the last `suffix`; between them
    stands the replaced span, which may be of different length on each side.
    """

    prefix: int
    suffix: int
    length_a: int
    length_b: int

    @property
    def span_a(self) -> slice:
        return slice(self.prefix, self.length_a - self.suffix)

    @property
    def span_b(self) -> slice:
        return slice(self.prefix, self.length_b - self.suffix)


def align(a: Tokens, b: Tokens) -> Alignment:
    """The longest shared beginning and, after it, the longest shared end of two prompts.

    Where one side only inserts words, the other side's span would hold none; then the nearest
    shared word, the one after it first, joins the span on both sides: of "the cat" and "the
    black cat", "cat" stands against "black cat".
    """
    shortest = min(len(a), len(b))
    prefix = next((i for i in range(shortest) if a.ids[i] != b.ids[i]), shortest)
    room = shortest - prefix
    suffix = next((i for i in range(room) if a.ids[-1 - i] != b.ids[-1 - i]), room)
    found = Alignment(prefix, suffix, len(a), len(b))
    span_a, span_b = a.words[found.span_a], b.words[found.span_b]
    if bool(len(span_a)) != bool(len(span_b)) or span_a.any() != span_b.any():
        return _widened(found, a.words, b.words)
    return found


def _widened(found: Alignment, words_a: Flags, words_b: Flags) -> Alignment:
    """The alignment with the nearest shared word, failing that a shared token, in the span."""
    end_a, end_b = found.length_a - found.suffix, found.length_b - found.suffix
    after = np.flatnonzero(words_a[end_a:] & words_b[end_b:])
    before = np.flatnonzero(words_a[: found.prefix] & words_b[: found.prefix])
    if len(after) and after[0] == 0:
        return replace(found, suffix=found.suffix - 1)
    if len(before):
        return replace(found, prefix=int(before[-1]))
    if len(after):
        return replace(found, suffix=found.suffix - 1 - int(after[0]))
    if found.prefix < min(end_a, end_b):
        return found
    if found.suffix:
        return replace(found, suffix=found.suffix - 1)
    return replace(found, prefix=max(found.prefix - 1, 0))


def view_positions(
    alignment: Alignment, a: Floats, b: Floats, words_a: Flags, words_b: Flags
) -> dict[str, tuple[Floats, Floats]]:
    """Each view's corresponding activations, (positions, neurons) on both sides.

    Args:
        alignment: of the two prompts.
        a: (tokens of a, neurons), special tokens included; `b` likewise.
        words_a: (tokens of a,) true at the tokens that `span` and `context` may use.
        words_b: likewise for b.

    Returns:
        `aligned`: shared beginning, the span mean-pooled to one position, shared end.
        `span`: the words of the span mean-pooled, one position; none where a side has no word.
        `context`: the shared words, in order.
    """
    p, s = alignment.prefix, alignment.suffix
    start, end = slice(0, p), (slice(len(a) - s, None), slice(len(b) - s, None))
    whole = _pooled(a[alignment.span_a], b[alignment.span_b])
    span = _pooled(
        a[alignment.span_a][words_a[alignment.span_a]],
        b[alignment.span_b][words_b[alignment.span_b]],
    )
    kept_start = words_a[start] & words_b[start]
    kept_end = words_a[end[0]] & words_b[end[1]]
    return {
        "aligned": (
            np.concatenate([a[start], whole[0], a[end[0]]]),
            np.concatenate([b[start], whole[1], b[end[1]]]),
        ),
        "span": span,
        "context": (
            np.concatenate([a[start][kept_start], a[end[0]][kept_end]]),
            np.concatenate([b[start][kept_start], b[end[1]][kept_end]]),
        ),
    }


def _pooled(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Means over tokens as one position each, or no position where either side is empty."""
    if len(a) == 0 or len(b) == 0:
        return a[:0], b[:0]
    return a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True)
