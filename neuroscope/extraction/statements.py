"""Statements with a gap for a role and one for a group, and the tokens of what fills them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuroscope.errors import PromptError

ROLE, GROUP = "{role}", "{group}"
"""Gaps of a statement, such as "The {role} is a {group}."."""


@dataclass(frozen=True)
class Filled:
    """Statement whose gaps are filled, with the characters of the role and of the word.

    >>> Filled.of("The {role} is a {group}.", "nurse", "man")
    Filled(text='The nurse is a man.', role=(4, 9), word=(15, 18))
    """

    text: str
    role: tuple[int, int]
    word: tuple[int, int]

    @classmethod
    def of(cls, statement: str, role: str, word: str) -> "Filled":
        """Fill the gaps of a statement; raise PromptError unless it has each of them once."""
        if statement.count(ROLE) != 1 or statement.count(GROUP) != 1:
            raise PromptError(
                f"statement '{statement}' must contain {ROLE} and {GROUP} once each",
                remedy=f"write, for example, 'The {ROLE} is a {GROUP}.'",
            )
        fills = {ROLE: role, GROUP: word}
        spans: dict[str, tuple[int, int]] = {}
        text, rest = "", statement
        for gap in sorted(fills, key=statement.index):
            before, _, rest = rest.partition(gap)
            start = len(text) + len(before)
            text += before + fills[gap]
            spans[gap] = (start, len(text))
        return cls(text + rest, spans[ROLE], spans[GROUP])

    def gap(self, encoding: Any, unknown: int | None) -> "Gap | None":
        """Return the gap of the word, given the encoding of the text with offsets.

        None if the word is not a single known token, or shares its token with other letters. A
        token may begin with the space before the word.
        """
        role, word = (_overlapping(encoding.offsets, span) for span in (self.role, self.word))
        if len(word) != 1 or word[0] in role or encoding.ids[word[0]] == unknown:
            return None
        first, last = encoding.offsets[word[0]]
        if self.text[first:last].strip() != self.text[slice(*self.word)]:
            return None
        return Gap(tuple(encoding.ids), word[0], frozenset(role))


@dataclass(frozen=True)
class Gap:
    """Tokens of a filled statement, with the positions of the word and of the role."""

    ids: tuple[int, ...]
    position: int
    role: frozenset[int]

    def contexts(self, mask: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids with the word masked, and those with the role masked too."""
        target = tuple(mask if at == self.position else id for at, id in enumerate(self.ids))
        return target, tuple(mask if at in self.role else id for at, id in enumerate(target))


def _overlapping(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> list[int]:
    """Return the positions of the tokens that have characters of a span."""
    start, end = span
    return [at for at, (first, last) in enumerate(offsets) if first < end and last > start]
