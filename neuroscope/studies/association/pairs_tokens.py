"""Tokens of pairs of prompts: which both share, which differ, and what replaces these in controls.

Scores of pairs can be far from 50 % for reasons that have nothing to do with the meaning of the
words (control groups: arXiv:2302.12640). A control pair has the same contexts and numbers of
tokens, and words about as frequent, but other words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

from neuroscope.tokens import TokenBlock, Vocabulary

Integers = NDArray[np.integer]
Flags = NDArray[np.bool_]
Kind = tuple[bool, bool, bool, bool]
"""Whether a token begins a word, is in ASCII, begins with a capital letter, and is all capital."""

_NEAREST = 20  # tokens among which a control is drawn


@dataclass(frozen=True, eq=False)
class PairTokens:
    """Tokens of both prompts of a pair, with those that both share."""

    ids: tuple[Integers, Integers]
    """(tokens,) ids of each prompt."""
    shared: tuple[Flags, Flags]
    """(tokens,) flags of each prompt, true at tokens that the other prompt has too, in order."""
    special: tuple[Flags, Flags]
    """(tokens,) flags of each prompt, true at special tokens."""

    @classmethod
    def of(cls, a: TokenBlock, b: TokenBlock, number: int) -> "PairTokens":
        """Return the tokens of a pair of prompts, given its number in two blocks."""
        first, second = (slice(block.starts[number], block.ends[number]) for block in (a, b))
        ids = (a.ids[first], b.ids[second])
        return cls(ids, _shared(*ids), (a.special[first], b.special[second]))

    @property
    def equal(self) -> bool:
        """Whether both prompts have the same tokens."""
        return all(flags.all() for flags in self.shared)

    @property
    def shares(self) -> bool:
        """Whether the prompts share a token that is not special."""
        return bool((self.shared[0] & ~self.special[0]).any())

    @property
    def modified(self) -> list[int]:
        """Distinct ids of the tokens that the other prompt lacks, in increasing order."""
        sides = zip(self.ids, self.shared, self.special, strict=True)
        chosen = [ids[~shared & ~special] for ids, shared, special in sides]
        distinct: list[int] = np.unique(np.concatenate(chosen)).tolist()
        return distinct

    def replaced(self, controls: Mapping[int, int]) -> tuple[Integers, Integers]:
        """Return the ids of both prompts with modified tokens replaced; shared ones stay."""

        def side(ids: Integers, shared: Flags) -> Integers:
            new = np.array([controls.get(id, id) for id in ids.tolist()], dtype=ids.dtype)
            return np.where(shared, ids, new)

        first, second = (side(*each) for each in zip(self.ids, self.shared, strict=True))
        return first, second


def _shared(a: Integers, b: Integers) -> tuple[Flags, Flags]:
    """Return flags of both prompts, true at the tokens that `difflib.SequenceMatcher` aligns.

    The alignment of two prompts does not depend on which of them is the first.
    """
    if b.tolist() < a.tolist():
        second, first = _shared(b, a)
        return first, second
    shared = np.zeros(len(a), dtype=bool), np.zeros(len(b), dtype=bool)
    matcher = SequenceMatcher(None, a.tolist(), b.tolist(), autojunk=False)
    for match in matcher.get_matching_blocks():
        shared[0][match.a : match.a + match.size] = True
        shared[1][match.b : match.b + match.size] = True
    return shared


class ControlTokens:
    """Tokens that take the place of modified ones in control pairs.

    >>> controls = ControlTokens(vocabulary, pairs, size=30522)
    >>> controls.drawn(pairs[0].modified, np.random.default_rng(0))

    A control is of the same kind (it begins a word or continues one; script and capitals), consists
    of letters only, is neither special nor modified in any pair, and is near in the vocabulary,
    whose order tells about how frequent tokens are.
    """

    def __init__(self, vocabulary: Vocabulary, pairs: Sequence[PairTokens], size: int):
        """List the eligible tokens.

        Args:
            vocabulary: vocabulary of the tokenizer.
            pairs: tokens of all pairs of the file.
            size: number of tokens for which the model has embeddings.
        """
        self._vocabulary = vocabulary
        modified = {id for pair in pairs for id in pair.modified}
        eligible: dict[Kind, list[int]] = {}
        for id in range(min(size, len(vocabulary.texts))):
            if id not in modified and (kind := self._kind(id)):
                eligible.setdefault(kind, []).append(id)
        self._eligible = {kind: np.array(ids) for kind, ids in eligible.items()}

    def drawn(self, modified: Sequence[int], rng: np.random.Generator) -> dict[int, int] | None:
        """Draw a distinct control for each modified token that consists of letters.

        Args:
            modified: ids of the modified tokens of a pair.
            rng: generator of random numbers.

        Returns:
            Modified id -> control id; None if no token can be replaced, or one has no control.
        """
        controls: dict[int, int] = {}
        for id in modified:
            kind = self._kind(id)
            if kind is None:
                continue
            near = self._near(id, kind, set(controls.values()))
            if not near:
                return None
            controls[id] = near[int(rng.integers(len(near)))]
        return controls or None

    def _near(self, id: int, kind: Kind, taken: set[int]) -> list[int]:
        """Return the eligible tokens of a kind that are nearest to an id and not taken."""
        eligible = self._eligible.get(kind, np.empty(0, dtype=np.int64))
        at, most = int(np.searchsorted(eligible, id)), _NEAREST + len(taken)
        around: list[int] = eligible[max(0, at - most) : at + most].tolist()
        nearest = sorted(around, key=lambda other: abs(other - id))
        return [other for other in nearest if other not in taken][:_NEAREST]

    def _kind(self, id: int) -> Kind | None:
        """Return the kind of a token; None if it is special or does not consist of letters."""
        vocabulary = self._vocabulary
        text = vocabulary.spelled(id).strip() if vocabulary.texts[id] else ""
        if id in vocabulary.special or id == vocabulary.unknown or not text.isalpha():
            return None
        begins = vocabulary.begins_word(id)
        return begins, text.isascii(), text[0].isupper(), text.isupper() and len(text) > 1


def joined_block(rows: Sequence[Integers], vocabulary: Vocabulary) -> TokenBlock:
    """Return a block of prompts from the ids of each."""
    ends = np.cumsum([len(ids) for ids in rows], dtype=np.int64)
    return TokenBlock(np.concatenate(rows).astype(np.int32), ends, vocabulary)
