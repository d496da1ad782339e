"""Prompts and tokens of activations on their way: written before anything is computed."""

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from neuroscope.errors import PromptError
from neuroscope.progress import Progress
from neuroscope.prompts import Prompt, Prompts, digest_of
from neuroscope.storage.disk import disk_errors
from neuroscope.storage.manifest import Manifest
from neuroscope.storage.parts import (
    PROMPTS,
    TOKENS,
    PartFacts,
    prompt_columns,
    token_columns,
    write_part,
)
from neuroscope.tokens import TokenBlock

Tokenise = Callable[[Sequence[Prompt]], TokenBlock]


def write_inputs(
    folder: Path, manifest: Manifest, prompts: Prompts, tokenise: Tokenise, progress: Progress
) -> None:
    """Writes the parts of prompts and tokens, all or none.

    Raises:
        ActivationError: the disk is full or fails.
        PromptError: a prompt cannot be read by the model, or they are not those of the manifest.
    """
    unfinished = folder / ".inputs"
    with disk_errors(folder):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
    try:
        written = _writing(prompts, unfinished, manifest, tokenise, progress)
        if digest_of(written) != manifest.key.prompts_digest:
            raise PromptError("the prompts changed while they were read: run the extraction again")
        with disk_errors(folder):
            for table in (PROMPTS, TOKENS):
                shutil.rmtree(folder / table, ignore_errors=True)
                (unfinished / table).rename(folder / table)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _writing(
    prompts: Prompts, folder: Path, manifest: Manifest, tokenise: Tokenise, progress: Progress
) -> Iterator[Prompt]:
    """The prompts, written part by part as they go by."""
    rest, key = iter(prompts), manifest.key.digest
    for number in range(manifest.parts):
        progress("read prompts", number * manifest.prompts_per_part, manifest.prompts)
        part = list(itertools.islice(rest, manifest.prompts_per_part))
        if not part:  # the file has shrunk
            break
        tokens = tokenise(part)
        ids = [prompt.id for prompt in part]
        with disk_errors(folder.parent):
            facts = PartFacts(key, PROMPTS, len(part))
            write_part(folder, number, prompt_columns(part), facts)
            facts = PartFacts(key, TOKENS, len(tokens.ids))
            write_part(folder, number, token_columns(ids, tokens), facts)
        yield from part
    yield from rest  # there are none, unless the file has grown
