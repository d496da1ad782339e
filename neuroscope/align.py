"""Which tokens of two prompts correspond: a shared beginning, a replaced span, a shared end."""

import re
import unicodedata
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
VIEWS = ("aligned", "span", "context")
"""All positions, special tokens included; the replaced words only; the shared words only."""

_WORD_MARKERS = "Ġ▁Ċ"  # how GPT-2's and SentencePiece tokenizers write a space or a new line
_BLANK = re.compile(r"(?:[\sĠ▁Ċĉč]|<0x(?:09|0A|0D|20)>)+")  # a token that shows nothing


@dataclass(frozen=True)
class Tokens:
    """One prompt as its model reads it, padding left out; all fields have one entry a token."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    special: tuple[bool, ...]
    unknown: tuple[bool, ...] = ()  # words the tokenizer has no token for; not given: none

    def __post_init__(self) -> None:
        if not self.unknown:
            object.__setattr__(self, "unknown", (False,) * len(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def content(self) -> Flags:
        """(tokens,) false at special tokens such as [CLS]."""
        return ~np.array(self.special, dtype=bool)

    @property
    def words(self) -> Flags:
        """(tokens,) false at special tokens and at the punctuation and blanks at the end."""
        words = self.content
        for position in reversed(np.flatnonzero(words).tolist()):
            text = self.texts[position]
            if not is_punctuation(text) and not _BLANK.fullmatch(text):
                break
            words[position] = False
        return words


def is_punctuation(token: str) -> bool:
    """Whether a token consists of punctuation alone, word markers aside."""
    text = _from_bytes(token.removeprefix("##").strip(_WORD_MARKERS + " "))
    return bool(text) and all(unicodedata.category(letter).startswith("P") for letter in text)


def _from_bytes(token: str) -> str:
    """The text of a byte-level token, in which GPT-2 writes “…” as "âĢ¦"; else the token."""
    try:
        return bytes(_BYTES[letter] for letter in token).decode()
    except (KeyError, UnicodeDecodeError):
        return token


def _byte_letters() -> dict[str, int]:
    """Letter -> byte, as in GPT-2's `bytes_to_unicode`."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): byte for byte in shown}
    return letters | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTES = _byte_letters()


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
