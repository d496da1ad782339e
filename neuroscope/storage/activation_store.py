"""Activations on disk: where they are kept, and reading them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from neuroscope.activations import Activations, Floats, Provenance
from neuroscope.errors import ActivationError
from neuroscope.home import home
from neuroscope.prompts import Prompt, PromptSet
from neuroscope.sites import Site
from neuroscope.storage.manifest import ActivationKey, read_manifest
from neuroscope.storage.parts import damaged, read_prompt_part, read_site_part, read_token_part
from neuroscope.tokens import Tokens


def stored_at(key: ActivationKey) -> Path:
    """The folder of a key in the store of this machine."""
    return home() / "activations" / key.digest


def read_activations(folder: Path, sites: Sequence[Site] | None = None) -> Activations:
    """Reads a folder of activations into memory, all sites of it or only those named.

    Raises:
        ActivationError: the folder is incomplete, damaged or of another schema, or lacks a site.
    """
    manifest = read_manifest(folder)
    wanted = manifest.sites if sites is None else tuple(sites)
    lacking = [str(site) for site in wanted if site not in manifest.sites]
    if lacking:
        raise ActivationError(f"{folder} does not hold {', '.join(lacking)}")
    prompts: list[Prompt] = []
    tokens: list[Tokens] = []
    blocks: dict[Site, list[Floats]] = {site: [] for site in wanted}
    for number in range(manifest.parts):
        part = read_prompt_part(folder, number)
        part_tokens = list(read_token_part(folder, number, part))
        counts = list(_rows_of(part_tokens, manifest.provenance))
        for site in wanted:
            blocks[site].append(read_site_part(folder, str(site), number, part, counts))
        prompts += part
        tokens += part_tokens
    if len(prompts) != manifest.prompts:
        raise damaged(folder / "prompts", f"{len(prompts)} of {manifest.prompts} prompts")
    arrays: dict[Site, Floats | list[Floats]] = {
        site: np.concatenate(blocks.pop(site)) for site in wanted
    }
    if manifest.provenance.pool == "none":
        ends = np.cumsum(list(_rows_of(tokens, manifest.provenance)))[:-1]
        arrays = {site: np.split(arrays[site], ends) for site in wanted}
    return Activations(PromptSet(tuple(prompts)), tuple(tokens), arrays, manifest.provenance)


def _rows_of(tokens: Sequence[Tokens], provenance: Provenance) -> Iterator[int]:
    """How many rows each prompt has at a site."""
    for one in tokens:
        if provenance.pool != "none":
            yield 1
        else:
            yield int(one.content.sum()) if provenance.tokens == "content" else len(one)
