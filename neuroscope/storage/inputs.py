"""Prompts and tokens of stored activations, written before anything is computed."""

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neuroscope.errors import PromptError
from neuroscope.progress import Progress
from neuroscope.prompts import Prompt, Prompts, digest_of
from neuroscope.storage.disk import disk_errors
from neuroscope.storage.manifest import Manifest
from neuroscope.storage.parts import (
    PROMPTS,
    TOKENS,
    Part,
    read_part_header,
    verified_part,
    write_part,
)
from neuroscope.storage.tables import (
    prompt_columns,
    read_prompt_part,
    read_token_block,
    token_columns,
)
from neuroscope.tokens import TokenBlock, Vocabulary

Tokenise = Callable[[Sequence[Prompt]], TokenBlock]
"""Function that returns the tokens of prompts."""

_STAGING = ".inputs"
"""Name of the folder in which prompts and tokens are kept until all of them are written."""


@dataclass(frozen=True)
class PartInputs:
    """Ids and tokens of the prompts of one part, which a pass over them needs."""

    number: int
    """Number of the part, from 0."""
    first: int
    """Index of the part's first prompt among all prompts."""
    ids: list[str]
    """Ids of the prompts."""
    block: TokenBlock
    """Tokens of the prompts."""


def read_inputs(
    folder: Path, manifest: Manifest, number: int, vocabulary: Vocabulary
) -> PartInputs:
    """Return the ids and tokens of a part's prompts.

    Raises:
        StoreError: a file is missing or damaged.
    """
    prompts = read_prompt_part(folder, manifest.part(PROMPTS, number))
    block = read_token_block(folder, manifest.part(TOKENS, number), vocabulary)
    ids = [prompt.id for prompt in prompts]
    return PartInputs(number, manifest.starts[number], ids, block)


def written_parts(folder: Path, manifest: Manifest) -> tuple[int, ...]:
    """Return the number of prompts per part; empty unless all prompts and tokens are written."""
    sizes: list[int] = []
    first = 0
    while first < manifest.prompts:
        expected = Part(manifest.key.digest, PROMPTS, len(sizes), first, prompts=0)
        part = read_part_header(expected.path(folder))
        if not part or part.prompts < 1 or part != replace(expected, prompts=part.prompts):
            return ()
        if not verified_part(folder, replace(part, table=TOKENS)):
            return ()
        sizes.append(part.prompts)
        first += part.prompts
    return tuple(sizes) if first == manifest.prompts else ()


def write_inputs(
    folder: Path, manifest: Manifest, prompts: Prompts, tokenise: Tokenise, progress: Progress
) -> None:
    """Write all parts of prompts and tokens, or none of them.

    Args:
        folder: folder of the activations.
        manifest: manifest of the folder, which limits the size of parts.
        prompts: prompts to write.
        tokenise: function that returns the tokens of prompts.
        progress: callback that is called with the number of prompts that are read so far.

    Raises:
        StoreError, ResourceError: the disk fails or is full.
        PromptError: the model cannot read a prompt, or the prompts are not those of the manifest.
    """
    staging = folder / _STAGING
    with disk_errors(folder):
        discard_staged(folder)
        staging.mkdir()
    try:
        written = _write_parts(prompts, staging, manifest, tokenise, progress)
        if digest_of(written) != manifest.key.prompts_digest:
            raise PromptError(
                "the prompts changed while they were read", remedy="run the same extraction again"
            )
        with disk_errors(folder):
            for table in (PROMPTS, TOKENS):
                shutil.rmtree(folder / table, ignore_errors=True)
                (staging / table).rename(folder / table)
    finally:
        discard_staged(folder)


def discard_staged(folder: Path) -> None:
    """Remove the prompts and tokens of a process that was killed before all were written."""
    shutil.rmtree(folder / _STAGING, ignore_errors=True)


def _write_parts(
    prompts: Prompts, folder: Path, manifest: Manifest, tokenise: Tokenise, progress: Progress
) -> Iterator[Prompt]:
    """Write prompts and their tokens part by part, and yield each prompt."""
    remaining, key, first, number = iter(prompts), manifest.key.digest, 0, 0
    while chunk := list(itertools.islice(remaining, manifest.prompts_per_part)):
        progress("read prompts", first, manifest.prompts)
        tokens = tokenise(chunk)
        for span in _divide(tokens, manifest.tokens_per_part):
            part = chunk[span]
            position = (number, first, len(part))
            with disk_errors(folder.parent):
                write_part(folder, Part(key, PROMPTS, *position), prompt_columns(part))
                columns = token_columns([prompt.id for prompt in part], tokens.slice(span))
                write_part(folder, Part(key, TOKENS, *position), columns)
            number, first = number + 1, first + len(part)
        yield from chunk


def _divide(tokens: TokenBlock, limit: int) -> list[slice]:
    """Return spans of prompts with similar numbers of tokens.

    A span may exceed `limit`, but by fewer tokens than one prompt has.
    """
    total = len(tokens.ids)
    count = -(-total // limit)
    middles = (tokens.starts + tokens.ends) / 2
    cuts = np.searchsorted(middles, [total * index / count for index in range(1, count)])
    edges = np.unique([0, *cuts, len(tokens)]).tolist()
    return list(itertools.starmap(slice, itertools.pairwise(edges)))
