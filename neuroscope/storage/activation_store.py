"""Stored activations: their location, and reading them all at once or part by part."""

from collections.abc import Iterator, Sequence
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
from neuroscope.storage.keys import ActivationKey
from neuroscope.storage.manifest import Manifest, read_manifest
from neuroscope.storage.parts import PROMPTS, TOKENS, damaged
from neuroscope.storage.tables import (
    read_prompt_part,
    read_site_part,
    read_token_table,
    token_block,
)


def store_root() -> Path:
    """Return the folder of all activations stored on this machine; it may not exist yet."""
    return home() / "activations"


def store_folder(key: ActivationKey) -> Path:
    """Return the folder of a key in this machine's store; it may not exist yet."""
    return store_root() / key.digest


def read_activations(
    folder: str | Path, sites: str | Sequence[str | Site] | None = None
) -> Activations[Any]:
    """Read a folder of activations into memory.

    >>> acts = read_activations("activations", ["mlp_act.3", "resid_post"])
    >>> acts["mlp_act.3"]  # (prompts, neurons) float32

    Args:
        folder: folder written by `extract_to` or `neuroscope extract`.
        sites: sites to read; a component stands for all of its layers. By default all sites are
            read; with `[]`, only prompts and tokens.

    Raises:
        SiteError: a name is unknown.
        StoreError: the folder is incomplete, damaged or of another schema, or lacks a site.
    """
    folder = absolute(folder)
    manifest = read_manifest(folder)
    return _activations(folder, manifest, range(len(manifest.parts)), sites)


def read_parts(
    folder: str | Path, sites: str | Sequence[str | Site] | None = None
) -> Iterator[Activations[Any]]:
    """Iterate over the activations of a folder part by part, in the order of the prompts.

    >>> for acts in read_parts("activations", "mlp_act.3"):
    ...     total += acts["mlp_act.3"].sum(axis=0)

    Each part is read when it is requested, so only one part at a time is in memory.

    Args:
        folder, sites: as in `read_activations`.

    Raises:
        SiteError, StoreError: as in `read_activations`.
    """
    folder = absolute(folder)
    manifest = read_manifest(folder)
    _chosen_sites(folder, manifest, sites)  # refuse a wrong name before the first part is read
    return (
        _activations(folder, manifest, [number], sites) for number in range(len(manifest.parts))
    )


def _activations(
    folder: Path,
    manifest: Manifest,
    numbers: Sequence[int],
    sites: str | Sequence[str | Site] | None,
) -> Activations[Any]:
    """Return the activations of neighbouring parts."""
    chosen = _chosen_sites(folder, manifest, sites)
    prompts: list[Prompt] = []
    token_tables = []
    for number in numbers:
        part_prompts, token_table = _read_inputs(folder, manifest, number)
        prompts += part_prompts
        token_tables.append(token_table)
    block = token_block(token_tables)
    kept = block.kept_counts(manifest.key.token_rule)
    ids, pooled = [prompt.id for prompt in prompts], manifest.key.pool != "none"
    counts = np.ones_like(kept) if pooled else kept
    arrays: dict[Site, Floats | list[Floats]] = {}
    for site in chosen:
        values = _read_values(folder, manifest, numbers, site, ids, counts)
        arrays[site] = values if pooled else np.split(values, np.cumsum(counts)[:-1])
    return Activations(PromptSet(tuple(prompts)), block, arrays, manifest.provenance)


def _read_inputs(folder: Path, manifest: Manifest, number: int) -> tuple[list[Prompt], Any]:
    """Return the prompts of a part, and their tokens as an Arrow table."""
    expected = manifest.part(PROMPTS, number)
    prompts = read_prompt_part(folder, expected)
    if len(prompts) != expected.prompts:
        problem = f"it holds {len(prompts)} of {expected.prompts} prompts"
        raise damaged(expected.path(folder), problem)
    ids = [prompt.id for prompt in prompts]
    return prompts, read_token_table(folder, manifest.part(TOKENS, number), ids)


def _read_values(
    folder: Path,
    manifest: Manifest,
    numbers: Sequence[int],
    site: Site,
    ids: Sequence[str],
    counts: NDArray[np.int64],
) -> Floats:
    """Return the values of neighbouring parts at a site, (rows, neurons).

    Each part is copied into the result as soon as it is read.

    Args:
        folder: folder of the activations.
        manifest: manifest of the folder.
        numbers: numbers of the parts.
        site: site to read.
        ids: ids of the prompts of these parts.
        counts: (prompts,) number of rows per prompt.
    """
    values = np.empty((0, 0), dtype=np.float32)
    offset, filled = manifest.starts[numbers[0]], 0
    for number in numbers:
        expected = manifest.part(str(site), number)
        span = slice(expected.first - offset, expected.first - offset + expected.prompts)
        rows = read_site_part(folder, expected, ids[span], counts[span])
        if not filled:
            values = np.empty((int(counts.sum()), rows.shape[1]), dtype=np.float32)
        values[filled : filled + len(rows)] = rows
        filled += len(rows)
    return values


def _chosen_sites(
    folder: Path, manifest: Manifest, sites: str | Sequence[str | Site] | None
) -> tuple[Site, ...]:
    """Return the sites that the given names stand for, in the order of the folder."""
    if sites is None:
        names: Sequence[str | Site] = manifest.sites
    else:
        names = [sites] if isinstance(sites, str) else sites
    if names and not manifest.values:
        raise StoreError(
            f"{folder} holds only statistics, no activations",
            remedy="extract activations of the same prompts and sites into it",
        )
    chosen: set[Site] = set()
    for name in names:
        chosen |= _matching_sites(folder, manifest, str(name))
    return tuple(site for site in manifest.sites if site in chosen)


def _matching_sites(folder: Path, manifest: Manifest, name: str) -> set[Site]:
    """Return the sites of a folder that a name stands for.

    Raises:
        SiteError: the name is unknown.
        StoreError: the folder holds no such site.
    """
    component, layer = parse_site(name)
    matching = {
        site
        for site in manifest.sites
        if site.component == component and layer in (None, site.layer)
    }
    if not matching:
        held = ", ".join(map(str, manifest.sites))
        raise StoreError(f"{folder} does not hold {name}; it holds {held}")
    return matching
