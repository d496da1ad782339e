"""Prompts that stay the same during a build, although their file may be edited meanwhile."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroscope.errors import PromptError
from neuroscope.prompt_files import PromptFile
from neuroscope.prompts import Prompt, Prompts, digested
from neuroscope.storage.activation_store import read_parts


def unchanged(prompts: Prompts) -> Prompts:
    """Return prompts that raise PromptError after the last one if their file has changed."""
    return UnchangedFile(prompts) if isinstance(prompts, PromptFile) else prompts


@dataclass(frozen=True)
class UnchangedFile:
    """Prompts of a file, which are verified each time all of them are read."""

    file: PromptFile

    def __len__(self) -> int:
        return len(self.file)

    def __iter__(self) -> Iterator[Prompt]:
        return _verified(self.file, self.digest, str(self.file.path))

    @property
    def digest(self) -> str:
        """SHA-256 over ids, texts and labels, in order."""
        return self.file.digest

    @property
    def characters(self) -> int:
        """Number of characters of all texts together."""
        return self.file.characters


@dataclass(frozen=True)
class CountedPrompts:
    """Prompts that were counted, as they are stored beside the counts."""

    prompts: Prompts
    """Prompts of which the shards are parts."""
    shards: Sequence[Path]
    """Folders of the counts, in the order of the prompts."""

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        stored = (
            prompt
            for folder in self.shards
            for part in read_parts(folder, [])
            for prompt in part.prompts
        )
        return _verified(stored, self.digest, "the source of the prompts")

    @property
    def digest(self) -> str:
        """SHA-256 over ids, texts and labels, in order."""
        return self.prompts.digest

    @property
    def characters(self) -> int:
        """Number of characters of all texts together."""
        return self.prompts.characters


def _verified(prompts: Iterable[Prompt], digest: str, source: str) -> Iterator[Prompt]:
    """Yield prompts; raise PromptError at the end unless their digest is the given one."""
    total = hashlib.sha256()
    for prompt in prompts:
        total.update(digested(prompt))
        yield prompt
    if total.hexdigest() != digest:
        raise PromptError(f"{source} has changed since it was first read", remedy="run it again")
