"""Alignment of two prompts' tokens: a common prefix, a replaced span and a common suffix."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neuroscope.tokens import Flags, Tokens

Floats = NDArray[np.float32]
VIEWS = ("aligned", "span", "context")
"""Views of a pair of prompts: all positions, special tokens included; the replaced words only; the
shared words only."""


@dataclass(frozen=True)
class Alignment:
    """Corresponding positions of two token sequences.

    The first `prefix` tokens are the same on both sides, and so are the last `suffix` tokens. The
    replaced span is between them and may differ in length.
    """

    prefix: int
    suffix: int
    length_a: int
    length_b: int

    @property
    def span_a(self) -> slice:
        """Positions of the replaced span in the first sequence."""
        return slice(self.prefix, self.length_a - self.suffix)

    @property
    def span_b(self) -> slice:
        """Positions of the replaced span in the second sequence."""
        return slice(self.prefix, self.length_b - self.suffix)


def align(a: Tokens, b: Tokens) -> Alignment:
    """Align two token sequences by their longest common prefix, then their longest common suffix.

    If one side only inserts words, the span of the other side would contain no word. The nearest
    shared word then joins the span on both sides, preferably the word after it: in "the cat" and
    "the black cat", the spans are "cat" and "black cat".
    """
    shortest = min(len(a), len(b))
    prefix = next((i for i in range(shortest) if a.ids[i] != b.ids[i]), shortest)
    remaining = shortest - prefix
    suffix = next((i for i in range(remaining) if a.ids[-1 - i] != b.ids[-1 - i]), remaining)
    alignment = Alignment(prefix, suffix, len(a), len(b))
    span_a, span_b = a.words[alignment.span_a], b.words[alignment.span_b]
    if bool(len(span_a)) != bool(len(span_b)) or span_a.any() != span_b.any():
        return _widened(alignment, a.words, b.words)
    return alignment


def _widened(alignment: Alignment, words_a: Flags, words_b: Flags) -> Alignment:
    """Return the alignment with its span widened by the nearest shared word, or else token."""
    end_a, end_b = alignment.length_a - alignment.suffix, alignment.length_b - alignment.suffix
    after = np.flatnonzero(words_a[end_a:] & words_b[end_b:])
    before = np.flatnonzero(words_a[: alignment.prefix] & words_b[: alignment.prefix])
    if len(after) and after[0] == 0:
        return replace(alignment, suffix=alignment.suffix - 1)
    if len(before):
        return replace(alignment, prefix=int(before[-1]))
    if len(after):
        return replace(alignment, suffix=alignment.suffix - 1 - int(after[0]))
    if alignment.prefix < min(end_a, end_b):
        return alignment
    if alignment.suffix:
        return replace(alignment, suffix=alignment.suffix - 1)
    return replace(alignment, prefix=max(alignment.prefix - 1, 0))


def view_positions(
    alignment: Alignment, a: Floats, b: Floats, words_a: Flags, words_b: Flags
) -> dict[str, tuple[Floats, Floats]]:
    """Return the corresponding activations of each view, as two (positions, neurons) arrays.

    Args:
        alignment: alignment of the two prompts.
        a: activations of the first prompt, (tokens, neurons), special tokens included.
        b: activations of the second prompt, in the same form.
        words_a: flags of the first prompt, (tokens,), true at the tokens that `span` and `context`
            may use.
        words_b: flags of the second prompt, in the same form.

    Returns:
        `aligned`: the common prefix, the mean of the span as one position, the common suffix.
        `span`: the mean of the span's words as one position; no position if a side has no word.
        `context`: the shared words, in order.
    """
    span_a, span_b = alignment.span_a, alignment.span_b
    prefix = slice(0, alignment.prefix)
    suffix_a = slice(len(a) - alignment.suffix, None)
    suffix_b = slice(len(b) - alignment.suffix, None)
    pooled_a, pooled_b = _pooled(a[span_a], b[span_b])
    shared_prefix = words_a[prefix] & words_b[prefix]
    shared_suffix = words_a[suffix_a] & words_b[suffix_b]
    return {
        "aligned": (
            np.concatenate([a[prefix], pooled_a, a[suffix_a]]),
            np.concatenate([b[prefix], pooled_b, b[suffix_b]]),
        ),
        "span": _pooled(a[span_a][words_a[span_a]], b[span_b][words_b[span_b]]),
        "context": (
            np.concatenate([a[prefix][shared_prefix], a[suffix_a][shared_suffix]]),
            np.concatenate([b[prefix][shared_prefix], b[suffix_b][shared_suffix]]),
        ),
    }


def _pooled(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return the mean of each side's tokens as one position; no position if a side is empty."""
    if len(a) == 0 or len(b) == 0:
        return a[:0], b[:0]
    return a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True)
