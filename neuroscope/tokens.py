"""Tokens of prompts: of one prompt, and of many prompts in one array."""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from neuroscope.options import TokenRule

Flags = NDArray[np.bool_]
Integers = NDArray[np.int32]

_WORD_MARKERS = "Ġ▁Ċ"  # how GPT-2's and SentencePiece tokenizers write a space or a new line
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece writes a byte
_CLOSING = frozenset(".,;:!?)]}%'")  # punctuation that follows a word without a space
_LEAST_WORD = 3  # letters
_PUNCTUATION = frozenset(string.punctuation)
_BLANK = re.compile(r"(?:[\sĠ▁Ċĉč]|<0x(?:09|0A|0D|20)>)+")  # a token of white space only


@dataclass(frozen=True)
class Tokens:
    """Tokens of one prompt, without padding; every field has one entry per token."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    special: tuple[bool, ...]
    unknown: tuple[bool, ...] = ()  # true where the tokenizer does not know a word; default: none

    def __post_init__(self) -> None:
        if not self.unknown:
            object.__setattr__(self, "unknown", (False,) * len(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def content(self) -> Flags:
        """(tokens,) flags, false at special tokens such as [CLS]."""
        return ~np.array(self.special, dtype=bool)

    @property
    def words(self) -> Flags:
        """(tokens,) flags, false at special tokens and at punctuation and blanks at the end."""
        words = self.content
        for position in reversed(np.flatnonzero(words).tolist()):
            text = self.texts[position]
            if not is_punctuation(text) and not _BLANK.fullmatch(text):
                break
            words[position] = False
        return words


def is_punctuation(token: str) -> bool:
    """Return whether a token consists of punctuation, apart from word markers."""
    text = _from_bytes(token.removeprefix("##").strip(_WORD_MARKERS + " "))
    return bool(text) and all(unicodedata.category(letter).startswith("P") for letter in text)


def _from_bytes(token: str) -> str:
    """Decode a byte-level token, such as GPT-2's "âĢ¦" for “…”; return other tokens unchanged."""
    try:
        return bytes(_BYTES[letter] for letter in token).decode()
    except (KeyError, UnicodeDecodeError):
        return token


def _from_byte(byte: int) -> str:
    """Return the letter of a byte in UTF-8; a replacement character for a part of a letter."""
    return bytes([byte]).decode(errors="replace")


def _marked(marker: str) -> Callable[[str], bool]:
    """Return a function that returns whether a token has a mark, and letters after it."""
    return lambda token: token.startswith(marker) and token[len(marker) :].isalpha()


def _byte_letters() -> dict[str, int]:
    """Return letter -> byte, the inverse of GPT-2's `bytes_to_unicode`."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES = _byte_letters()


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tokens of one tokenizer by id, with those that are special or unknown.

    Only tokens that frame or pad a prompt are special; [MASK] and [UNK] count as words.
    """

    texts: Sequence[str]  # id -> token
    special: frozenset[int]
    unknown: int | None  # id of the token that replaces words the tokenizer does not know

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.texts):,} tokens)"

    @cached_property
    def word_marker(self) -> str:
        """Mark of tokens that begin a word (`Ġ` or `▁`) or continue one (`##`); empty without."""
        markers = ("Ġ", "▁", "##")
        return next((mark for mark in markers if any(map(_marked(mark), self.texts))), "")

    def spelled(self, id: int) -> str:
        """Return a token as it reads in a text, with a space before a word.

        WordPiece does not keep spaces: there is one before all but closing punctuation.

        >>> Vocabulary(("Ġcoach", "ing"), frozenset(), None).spelled(0)
        ' coach'
        """
        token, marker = self.texts[id], self.word_marker
        if id in self.special:
            return token
        if marker == "Ġ":
            known = all(letter in _BYTES for letter in token)
            return (
                bytes(map(_BYTES.__getitem__, token)).decode(errors="replace") if known else token
            )
        if marker == "▁":
            byte = _BYTE.fullmatch(token)
            return _from_byte(int(byte[1], 16)) if byte else token.replace("▁", " ")
        if self.continues(id):
            return token.removeprefix("##")
        return token if token in _CLOSING else f" {token}"

    def display(self, id: int) -> str:
        """Return a token for a list of words: a hyphen marks the middle or end of a word.

        >>> vocabulary = Vocabulary(("Ġcoach", "ing", "Ċ"), frozenset(), None)
        >>> [vocabulary.display(id) for id in (0, 1, 2)]
        ['coach', '-ing', '↵']
        """
        text = self.spelled(id).replace("\n", "↵").replace("\t", "→").replace("\r", "")
        if not text.strip():
            return "␣" * max(1, len(text))
        shown = text.strip()
        return f"-{shown}" if self.continues(id) and shown[0].islower() else shown

    def is_word(self, id: int) -> bool:
        """Return whether a token is, or begins, a word of at least 3 letters."""
        text = self.spelled(id).strip()
        return len(text) >= _LEAST_WORD and text.isalpha() and not self.continues(id)

    def continues(self, id: int) -> bool:
        """Return whether a token continues a word, or begins a text, which looks the same."""
        token, marker = self.texts[id], self.word_marker
        if id in self.special or not marker:
            return False
        return token.startswith("##") if marker == "##" else token[0] not in _WORD_MARKERS

    def stands_alone(self, id: int) -> bool:
        """Return whether a token is no piece of a word: a special token or one of punctuation.

        >>> vocabulary = Vocabulary(("Ġdon", "'t", ".", "##s"), frozenset(), None)
        >>> [vocabulary.stands_alone(id) for id in range(4)]
        [False, False, True, False]
        """
        return id in self.special or is_punctuation(self.texts[id])

    def begins_word(self, id: int) -> bool:
        """Return whether a token begins a word wherever it stands, as `Ġcoach` and `'t` do."""
        token = self.texts[id]
        if self.word_marker == "##" and token.startswith("##"):
            return False
        return not self.continues(id) or self.stands_alone(id) or token[0] in _PUNCTUATION

    @cached_property
    def is_special(self) -> Flags:
        """(ids,) flags, true for special tokens."""
        flags = np.zeros(len(self.texts), dtype=bool)
        flags[[id for id in self.special if id < len(flags)]] = True
        return flags

    @cached_property
    def is_unknown(self) -> Flags:
        """(ids,) flags, true for the unknown token unless that is also a special token."""
        flags = np.zeros(len(self.texts), dtype=bool)
        if self.unknown is not None:
            flags[self.unknown] = True
        return flags & ~self.is_special


@dataclass(frozen=True, eq=False)
class TokenBlock(Sequence[Tokens]):
    """Tokens of many prompts in one array, which is far smaller than one `Tokens` per prompt.

    >>> block[0].texts   # tokens of the first prompt
    ('[CLS]', 'the', 'cat', '[SEP]')

    `ids` is (tokens,); `ends` is (prompts,), the index after each prompt's last token.
    """

    ids: Integers
    ends: NDArray[np.int64]
    vocabulary: Vocabulary

    def __repr__(self) -> str:
        return f"TokenBlock({len(self):,} prompts, {len(self.ids):,} tokens)"

    def __len__(self) -> int:
        return len(self.ends)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenBlock) and list(self) == list(other)

    @overload
    def __getitem__(self, index: int) -> Tokens: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...

    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return self._tokens(int(self.starts[index]), int(self.ends[index]))

    def slice(self, prompts: slice) -> "TokenBlock":
        """Return the tokens of consecutive prompts."""
        starts, ends = self.starts[prompts], self.ends[prompts]
        first, last = int(starts[0]), int(ends[-1])
        return TokenBlock(self.ids[first:last], ends - first, self.vocabulary)

    def take(self, prompts: NDArray[np.int64]) -> "TokenBlock":
        """Return the tokens of some prompts, given their numbers."""
        lengths = self.lengths[prompts]
        ends = np.cumsum(lengths)
        index = np.arange(lengths.sum()) + np.repeat(self.starts[prompts] - ends + lengths, lengths)
        return TokenBlock(self.ids[index], ends, self.vocabulary)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(prompts,) index of each prompt's first token."""
        return np.concatenate([[0], self.ends[:-1]]).astype(np.int64)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(prompts,) number of tokens per prompt."""
        return self.ends - self.starts

    @cached_property
    def word_starts(self) -> Flags:
        """(tokens,) flags, true at tokens that begin a word; punctuation is a word of its own."""
        known, index = np.unique(self.ids, return_inverse=True)
        ids = known.tolist()
        begins = np.array([self.vocabulary.begins_word(id) for id in ids], dtype=bool)[index]
        alone = np.array([self.vocabulary.stands_alone(id) for id in ids], dtype=bool)[index]
        begins[1:] |= alone[:-1]
        begins[self.starts] = True
        return begins

    @cached_property
    def special(self) -> Flags:
        """(tokens,) flags, true at special tokens."""
        return self.vocabulary.is_special[self.ids]

    @cached_property
    def unknown(self) -> Flags:
        """(tokens,) flags, true at words the tokenizer does not know."""
        return self.vocabulary.is_unknown[self.ids]

    def kept(self, token_rule: TokenRule) -> Flags:
        """Return (tokens,) flags, true at the tokens that the rule counts."""
        return ~self.special if token_rule == "content" else np.ones(len(self.ids), dtype=bool)

    def kept_counts(self, token_rule: TokenRule) -> NDArray[np.int64]:
        """Return the number of tokens per prompt that the rule counts, (prompts,)."""
        before = np.concatenate([[0], np.cumsum(self.kept(token_rule), dtype=np.int64)])
        counts: NDArray[np.int64] = before[self.ends] - before[self.starts]
        return counts

    @property
    def positions(self) -> Integers:
        """(tokens,) position of each token in its prompt, from 0."""
        return (np.arange(len(self.ids)) - np.repeat(self.starts, self.lengths)).astype(np.int32)

    def _tokens(self, start: int, end: int) -> Tokens:
        span = slice(start, end)
        return Tokens(
            tuple(self.ids[span].tolist()),
            tuple(self.vocabulary.texts[id] for id in self.ids[span].tolist()),
            tuple(self.special[span].tolist()),
            tuple(self.unknown[span].tolist()),
        )
