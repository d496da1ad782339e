"""Activations on disk: where they are kept, and reading them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.activations import Activations, Floats
from neuroscope.errors import StoreError
from neuroscope.files import absolute
from neuroscope.home import home
from neuroscope.prompts import Prompt, PromptSet
from neuroscope.sites import Site, parse_site
from neuroscope.storage.manifest import ActivationKey, Manifest, read_manifest
from neuroscope.storage.parts import (
    PROMPTS,
    TOKENS,
    damaged,
    read_prompt_part,
    read_site_part,
    read_token_table,
    token_block,
)


def store_folder(key: ActivationKey) -> Path:
    """The folder of a key in the store of this machine."""
    return home() / "activations" / key.digest


def read_activations(
    folder: str | Path, sites: str | Sequence[str | Site] | None = None
) -> Activations[Any]:
    """Reads a folder of activations into memory.

    >>> acts = read_activations("activations", ["mlp_act.3", "resid_post"])

    Args:
        folder: written by `extract_to` or `neuroscope extract`.
        sites: those to read, a component standing for all of its layers; all if not given.

    Raises:
        SiteError: a name is unknown.
        StoreError: the folder is incomplete, damaged or of another schema, or lacks a site.
    """
    folder = absolute(folder)
    manifest = read_manifest(folder)
    wanted = manifest.sites if sites is None else _chosen(folder, manifest, sites)
    prompts: list[Prompt] = []
    tables = []
    for number in range(len(manifest.parts)):
        part = read_prompt_part(folder, manifest.part(PROMPTS, number))
        ids = [prompt.id for prompt in part]
        tables.append(read_token_table(folder, manifest.part(TOKENS, number), ids))
        prompts += part
    if len(prompts) != manifest.prompts:
        raise damaged(folder / PROMPTS, f"{len(prompts)} of {manifest.prompts} prompts")
    found, tokens = PromptSet(tuple(prompts)), token_block(tables)
    kept = tokens.kept_counts(manifest.key.token_rule)
    counts = kept if manifest.key.pool == "none" else np.ones_like(kept)
    arrays: dict[Site, Floats | list[Floats]] = {}
    for site in wanted:
        values = _read_site(folder, manifest, site, found.ids, counts)
        pooled = manifest.key.pool != "none"
        arrays[site] = values if pooled else np.split(values, np.cumsum(counts)[:-1])
    return Activations(found, tokens, arrays, manifest.provenance)


def _read_site(
    folder: Path, manifest: Manifest, site: Site, ids: Sequence[str], counts: NDArray[np.int64]
) -> Floats:
    """(rows of all prompts, neurons), put together as the parts are read."""
    values: Floats | None = None
    filled = 0
    for number in range(len(manifest.parts)):
        place = manifest.part(str(site), number)
        span = slice(place.first, place.first + place.prompts)
        part = read_site_part(folder, place, ids[span], counts[span])
        if values is None:
            values = np.empty((int(counts.sum()), part.shape[1]), dtype=np.float32)
        values[filled : filled + len(part)] = part
        filled += len(part)
    assert values is not None  # there is a part, as there is a prompt
    return values


def _chosen(
    folder: Path, manifest: Manifest, sites: str | Sequence[str | Site]
) -> tuple[Site, ...]:
    """The sites of a folder that are meant, in its order."""
    wanted: set[Site] = set()
    for name in [sites] if isinstance(sites, str) else sites:
        component, layer = parse_site(str(name))
        meant = {
            site
            for site in manifest.sites
            if site.component == component and layer in (None, site.layer)
        }
        if not meant:
            held = ", ".join(map(str, manifest.sites))
            raise StoreError(f"{folder} does not hold {name}; it holds {held}")
        wanted |= meant
    return tuple(site for site in manifest.sites if site in wanted)
