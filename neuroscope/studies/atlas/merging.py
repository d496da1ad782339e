"""What the shards of an atlas hold together: the counts of each site, prompts and tokens."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.prompts import Prompt, verified
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_parts
from neuroscope.storage.statistics import read_statistics
from neuroscope.studies.atlas.counts import SiteCounts
from neuroscope.tokens import TokenBlock, Vocabulary


def merged_counts(
    shards: Sequence[Path], name: str, sites: Sequence[Site]
) -> dict[Site, SiteCounts]:
    """Return the counts of every site over all parts of all shards.

    Beside the result, the counts of one part at one site are in memory.

    Args:
        shards: folders of the counts.
        name: name of the stored counts.
        sites: sites to read.
    """
    return {site: _site_counts(shards, name, f"{site}/") for site in sites}


def _site_counts(shards: Sequence[Path], name: str, start: str) -> SiteCounts:
    """Return the counts over all parts from the arrays whose names begin with `start`."""
    total: SiteCounts | None = None
    for folder in shards:
        for arrays in read_statistics(folder, name, start):
            own: dict[str, NDArray[Any]] = {
                key.removeprefix(start): values for key, values in arrays.items()
            }
            counts = SiteCounts.from_arrays(own)
            total = total.merge(counts) if total else counts
            del arrays, own, counts  # before the next part is read
    assert total is not None, "there are no shards"
    return total


def merged_prompts(shards: Sequence[Path], digest: str) -> Iterator[Prompt]:
    """Yield all prompts as they were counted, although their file may have changed since.

    Raises:
        PromptError: they are not those with the given digest, as the file changed while they were
            counted.
    """
    stored = (
        prompt for folder in shards for part in read_parts(folder, []) for prompt in part.prompts
    )
    return verified(stored, digest, "the source of the prompts")


def merged_tokens(shards: Sequence[Path], vocabulary: Vocabulary) -> TokenBlock:
    """Return the tokens of all prompts."""
    ids: list[NDArray[np.int32]] = []
    lengths: list[NDArray[np.int64]] = []
    for folder in shards:
        for part in read_parts(folder, []):
            ids.append(part.tokens.ids)
            lengths.append(part.tokens.lengths)
    return TokenBlock(np.concatenate(ids), np.cumsum(np.concatenate(lengths)), vocabulary)
