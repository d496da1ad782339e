"""Shards: consecutive prompts of a set, each extracted by a task of its own."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from neuroscope.prompts import Prompt, Prompts, digest_of


@dataclass(frozen=True)
class Shard:
    """Consecutive prompts of a set."""

    prompts: Prompts
    """Set of which the shard is a part."""
    first: int
    """Index of the first prompt."""
    count: int
    """Number of prompts."""
    characters: int
    """Number of characters of all texts together."""
    digest: str
    """SHA-256 over ids, texts and labels, in order."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Prompt]:
        return itertools.islice(self.prompts, self.first, self.first + self.count)


def shards_of(prompts: Prompts, count: int) -> list[Shard]:
    """Divide prompts into shards of nearly equal size, at most one per prompt."""
    total, count = len(prompts), min(count, len(prompts))
    if count == 1:
        return [Shard(prompts, 0, total, prompts.characters, prompts.digest)]
    edges = [total * index // count for index in range(count + 1)]
    remaining, shards = iter(prompts), []
    for first, end in itertools.pairwise(edges):
        characters = 0

        def counted(size: int = end - first) -> Iterator[Prompt]:
            nonlocal characters
            for prompt in itertools.islice(remaining, size):
                characters += len(prompt.text)
                yield prompt

        digest = digest_of(counted())
        shards.append(Shard(prompts, first, end - first, characters, digest))
    for _ in remaining:  # a file reports here that it has changed
        pass
    return shards
