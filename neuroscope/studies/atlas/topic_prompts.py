"""Held-out prompts of an atlas on a topic, and as many on others."""

from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ExperimentError
from neuroscope.prompts import Prompt, PromptSet
from neuroscope.storage.atlas_file import Atlas
from neuroscope.studies.atlas.topics import Flags

FEWEST_PROMPTS = 10
"""Smallest number of held-out prompts on a topic, and off it."""


@dataclass(frozen=True, eq=False)
class TopicPrompts:
    """Prompts on a topic and as many off it, with all topics of each."""

    prompts: PromptSet
    members: Flags
    """(prompts, topics) whether a prompt is on a topic."""
    on: Flags
    """(prompts,) whether a prompt is on the topic that was asked for."""
    selecting: PromptSet
    """Prompts on the topic from the selection half."""


@dataclass(frozen=True, eq=False)
class AtlasPrompts:
    """Topics and half of every prompt of an atlas."""

    atlas: Atlas
    members: Flags
    """(prompts, topics)."""
    heldout: Flags
    """(prompts,)."""

    @classmethod
    def of(cls, atlas: Atlas) -> "AtlasPrompts":
        """Read which prompts are on which topics."""
        flags = atlas.sql("SELECT heldout FROM prompt ORDER BY prompt")["heldout"]
        return cls(atlas, _members(atlas), flags.to_numpy(bool))

    def draw(self, topic: int, count: int, seed: int) -> TopicPrompts:
        """Return up to `count` held-out prompts on a topic, and as many off it.

        Those off the topic are divided equally among the other topics, as far as these have enough
        prompts.

        Raises:
            ExperimentError: there are too few prompts on the topic, or off it.
        """
        rng = np.random.default_rng(seed)
        member = self.members[:, topic]
        on, off = np.flatnonzero(member & self.heldout), np.flatnonzero(~member & self.heldout)
        size = min(count, len(on), len(off))
        if size < FEWEST_PROMPTS:
            raise self._too_few(topic, len(on), len(off))
        chosen = np.concatenate([rng.permutation(on)[:size], self._in_turn(off, rng)[:size]])
        selecting = rng.permutation(np.flatnonzero(member & ~self.heldout))[:count]
        return TopicPrompts(
            self._prompts(chosen),
            self.members[chosen],
            np.arange(2 * size) < size,
            self._prompts(selecting),
        )

    def _in_turn(self, numbers: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return prompts in random order, taking one of each topic, and of none, in turn."""
        groups = [*self.members[numbers].T, ~self.members[numbers].any(axis=1)]
        shuffled = [rng.permutation(numbers[group]).tolist() for group in groups]
        in_turn = [number for row in zip_longest(*shuffled) for number in row if number is not None]
        return np.array(list(dict.fromkeys(in_turn)), dtype=np.int64)

    def _prompts(self, numbers: NDArray[np.int64]) -> PromptSet:
        """Return the prompts with some numbers, in this order."""
        rows = self.atlas.sql(
            "SELECT prompt, id, text FROM prompt WHERE prompt IN (SELECT unnest(?))",
            [numbers.tolist()],
        ).set_index("prompt")
        texts = rows.loc[numbers.tolist()]
        return PromptSet(tuple(map(Prompt, texts["id"].tolist(), texts["text"].tolist())))

    def _too_few(self, topic: int, on: int, off: int) -> ExperimentError:
        name = self.atlas.topics()["name"][topic]
        return ExperimentError(
            f"{on} held-out prompts are on the topic '{name}' and {off} are not; ablation needs"
            f" {FEWEST_PROMPTS} of each",
            remedy="build the atlas from more prompts",
        )


def _members(atlas: Atlas) -> Flags:
    """Return which prompts are on which topics, (prompts, topics)."""
    lists = atlas.sql("SELECT topics FROM prompt ORDER BY prompt")["topics"]
    members = np.zeros((len(lists), len(atlas.topics())), dtype=bool)
    for number, topics in enumerate(lists):
        members[number, topics] = True
    return members
