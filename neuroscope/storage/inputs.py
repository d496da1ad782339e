"""Prompts and tokens of activations on their way: written before anything is computed."""

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
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
    prompt_columns,
    read_part_header,
    token_columns,
    verified_part,
    write_part,
)
from neuroscope.tokens import TokenBlock

Tokenise = Callable[[Sequence[Prompt]], TokenBlock]

_INPUTS = ".inputs"  # folder in which they are written, until all of them are there


def written_inputs(folder: Path, manifest: Manifest) -> tuple[int, ...] | None:
    """How many prompts each part has, or None unless prompts and tokens are there, all of them."""
    sizes: list[int] = []
    first = 0
    while first < manifest.prompts:
        place = Part(manifest.key.digest, PROMPTS, len(sizes), first, prompts=0)
        found = read_part_header(place.path(folder))
        if not found or found.prompts < 1 or found != replace(place, prompts=found.prompts):
            return None
        if not verified_part(folder, replace(found, table=TOKENS)):
            return None
        sizes.append(found.prompts)
        first += found.prompts
    return tuple(sizes) if first == manifest.prompts else None


def write_inputs(
    folder: Path, manifest: Manifest, prompts: Prompts, tokenise: Tokenise, progress: Progress
) -> None:
    """Writes the parts of prompts and tokens, all or none.

    Raises:
        StoreError: the disk is full or fails.
        PromptError: a prompt cannot be read by the model, or they are not those of the manifest.
    """
    half = folder / _INPUTS
    with disk_errors(folder):
        discard_half_written(folder)
        half.mkdir()
    try:
        written = _writing(prompts, half, manifest, tokenise, progress)
        if digest_of(written) != manifest.key.prompts_digest:
            raise PromptError("the prompts changed while they were read: run the extraction again")
        with disk_errors(folder):
            for table in (PROMPTS, TOKENS):
                shutil.rmtree(folder / table, ignore_errors=True)
                (half / table).rename(folder / table)
    finally:
        discard_half_written(folder)


def discard_half_written(folder: Path) -> None:
    """Takes away what a killed process had begun to write."""
    shutil.rmtree(folder / _INPUTS, ignore_errors=True)


def _writing(
    prompts: Prompts, folder: Path, manifest: Manifest, tokenise: Tokenise, progress: Progress
) -> Iterator[Prompt]:
    """The prompts, written part by part as they go by."""
    rest, key, first, number = iter(prompts), manifest.key.digest, 0, 0
    while chunk := list(itertools.islice(rest, manifest.prompts_per_part)):
        progress("read prompts", first, manifest.prompts)
        tokens = tokenise(chunk)
        for span in _pieces(tokens, manifest.tokens_per_part):
            part = chunk[span]
            about = (number, first, len(part))
            with disk_errors(folder.parent):
                write_part(folder, Part(key, PROMPTS, *about), prompt_columns(part))
                columns = token_columns([prompt.id for prompt in part], tokens.slice(span))
                write_part(folder, Part(key, TOKENS, *about), columns)
            number, first = number + 1, first + len(part)
        yield from chunk


def _pieces(tokens: TokenBlock, most: int) -> list[slice]:
    """Neighbouring prompts that go into one part: of about as many tokens each, `most` or fewer.

    A piece may have a prompt's tokens more than that.
    """
    total = len(tokens.ids)
    count = -(-total // most)
    middles = (tokens.starts + tokens.ends) / 2
    cuts = np.searchsorted(middles, [total * one / count for one in range(1, count)])
    edges = np.unique([0, *cuts, len(tokens)]).tolist()
    return list(itertools.starmap(slice, itertools.pairwise(edges)))
