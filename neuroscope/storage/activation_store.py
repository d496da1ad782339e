"""Activations on disk: Parquet files that any tool reads, and a manifest written last."""

import hashlib
import itertools
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from neuroscope.activations import Activations, Floats, Provenance
from neuroscope.align import Tokens
from neuroscope.errors import ActivationError, SiteError
from neuroscope.prompts import Prompt, PromptSet
from neuroscope.sites import Site

SCHEMA = 1
MANIFEST = "manifest.json"


def activation_key(
    *,
    fingerprint: str,
    prompts: PromptSet,
    sites: Iterable[Site],
    pool: str,
    tokens: str,
    truncate: bool,
    dtype: str,
    attention: str,
) -> str:
    """Digest of everything that decides the values, 32 hexadecimal digits."""
    parts = [
        fingerprint,
        prompts.digest,
        [str(site) for site in sites],
        [pool, tokens, truncate, dtype, attention, SCHEMA],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class ActivationStore:
    """Folders of activations under one root, each named by its key.

    >>> store = ActivationStore(home() / "activations")
    >>> folder = store.write(key, acts)
    >>> store.find(key) == folder
    True

    A folder holds `prompts.parquet`, `tokens.parquet`, a folder for each site with Parquet parts
    (columns `prompt`, at token level `position`, and `values`, a list as long as the layer has
    neurons), and `manifest.json`, whose presence means that the rest is complete.
    """

    def __init__(self, root: Path):
        self.root = root

    def find(self, key: str) -> Path | None:
        """The folder kept under `key`, or None if there is no complete one."""
        folder = self.root / key
        return folder if (folder / MANIFEST).is_file() else None

    def write(self, key: str, activations: Activations) -> Path:
        """Keeps activations under `key`; another process may do the same at the same time."""
        folder = self.root / key
        unfinished = self.root / f".{key}.{uuid.uuid4().hex}"
        try:
            write_activations(unfinished, activations)
            self._put(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return folder

    def _put(self, unfinished: Path, folder: Path) -> None:
        try:
            os.rename(unfinished, folder)
        except OSError:
            if self.find(folder.name):  # somebody else finished the same one
                return
            if not folder.is_dir():
                raise
            shutil.rmtree(folder)  # its manifest was lost
            os.rename(unfinished, folder)


def check_new_folder(folder: Path) -> None:
    """Raises ActivationError if the folder is a file or holds files already."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ActivationError(f"{folder} is not empty: name a new folder")


def write_activations(folder: Path, activations: Activations) -> None:
    """Writes activations into a new folder, the manifest last.

    Raises:
        ActivationError: the folder holds files already.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_new_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ActivationError(
            f"the folder {folder} cannot be made ({error.strerror}): name another"
        ) from error
    prompts = {
        "id": activations.prompts.ids,
        "text": activations.prompts.texts,
        "labels": [json.dumps(dict(prompt.labels)) for prompt in activations.prompts],
    }
    tables = {
        "prompts.parquet": prompts,
        "tokens.parquet": _token_columns(activations),
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / name, write_page_checksum=True)
    for site in activations:
        path = folder / str(site) / "part-00000.parquet"
        path.parent.mkdir()
        table = pa.table(_site_columns(activations, site))
        pq.write_table(table, path, write_page_checksum=True)
    manifest = {
        "schema": SCHEMA,
        "sites": [str(site) for site in activations],
        "prompts": len(activations.prompts),
        "provenance": activations.provenance.to_dict(),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def read_activations(folder: Path, sites: Sequence[Site] | None = None) -> Activations:
    """Reads a folder of activations, all sites of it or only those named.

    Raises:
        ActivationError: the folder is incomplete, damaged or of another schema, or lacks a site.
    """
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    manifest = read_manifest(folder)
    try:
        recorded = [Site.parse(site) for site in manifest["sites"]]
        provenance = Provenance(**manifest["provenance"])
    except (KeyError, TypeError, SiteError) as error:
        raise ActivationError(_damaged(folder, error)) from error
    wanted = recorded if sites is None else list(sites)
    lacking = [str(site) for site in wanted if site not in recorded]
    if lacking:
        raise ActivationError(f"{folder} does not hold {', '.join(lacking)}")
    read = partial(pq.read_table, page_checksum_verification=True)
    try:
        rows = read(folder / "prompts.parquet").to_pylist()
        prompts = PromptSet(
            tuple(Prompt(row["id"], row["text"], json.loads(row["labels"])) for row in rows)
        )
        tokens = _read_tokens(read(folder / "tokens.parquet"), prompts)
        arrays = {
            site: _read_site(read(folder / str(site)), prompts, provenance.pool) for site in wanted
        }
    except (ArrowException, OSError, KeyError, AttributeError, ValueError) as error:
        raise ActivationError(_damaged(folder, error)) from error
    found = Activations(prompts, tokens, arrays, provenance)
    _check_rows(folder, found)
    return found


def _damaged(folder: Path, reason: object) -> str:
    return f"{folder} is damaged ({reason}): delete the folder and extract again"


def _check_rows(folder: Path, found: Activations) -> None:
    """Raises ActivationError unless each site has as many rows as its prompts ask for."""
    kept = [int(found.kept_tokens(index).sum()) for index in range(len(found.prompts))]
    for site in found:
        rows = found[site]
        if found.provenance.pool == "none" and [len(one) for one in rows] != kept:
            raise ActivationError(_damaged(folder, f"{site} lacks tokens"))
        if len(rows) != len(found.prompts):
            raise ActivationError(_damaged(folder, f"{site} lacks prompts"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the folder holds.

    Raises:
        ActivationError: there is no manifest, so writing was cut short, or it has another schema.
    """
    try:
        manifest: Any = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ActivationError(
            f"{folder} holds no complete activations (no {MANIFEST}): extract again"
        ) from error
    except (OSError, ValueError) as error:
        raise ActivationError(_damaged(folder, f"{MANIFEST}: {error}")) from error
    if not isinstance(manifest, dict):
        raise ActivationError(_damaged(folder, f"{MANIFEST} is no object"))
    if manifest.get("schema") != SCHEMA:
        raise ActivationError(
            f"{folder} was written with schema {manifest.get('schema')}, this version reads"
            f" {SCHEMA}: extract again"
        )
    return dict(manifest)


def _token_columns(activations: Activations) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        name: [] for name in ("prompt", "position", "id", "text", "special", "unknown")
    }
    for prompt, tokens in zip(activations.prompts, activations.tokens, strict=True):
        columns["prompt"] += [prompt.id] * len(tokens)
        columns["position"] += range(len(tokens))
        columns["id"] += tokens.ids
        columns["text"] += tokens.texts
        columns["special"] += tokens.special
        columns["unknown"] += tokens.unknown
    return columns


def _site_columns(activations: Activations, site: Site) -> dict[str, Any]:
    values, ids = activations[site], activations.prompts.ids
    if activations.provenance.pool != "none":
        return {"prompt": ids, "values": _lists(values)}
    positions = [np.flatnonzero(activations.kept_tokens(index)) for index in range(len(ids))]
    return {
        "prompt": np.repeat(np.array(ids, dtype=object), [len(at) for at in positions]),
        "position": np.concatenate(positions),
        "values": _lists(np.concatenate(values)),
    }


def _lists(values: Floats) -> Any:
    """(rows, neurons) as one Arrow list of fixed length a row."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _read_tokens(table: Any, prompts: PromptSet) -> tuple[Tokens, ...]:
    names = ("prompt", "id", "text", "special", "unknown")
    columns = {name: table[name].to_pylist() for name in names}
    ends = _ends(columns["prompt"], prompts)
    return tuple(
        Tokens(
            tuple(columns["id"][start:end]),
            tuple(columns["text"][start:end]),
            tuple(columns["special"][start:end]),
            tuple(columns["unknown"][start:end]),
        )
        for start, end in zip([0, *ends], ends, strict=False)
    )


def _read_site(table: Any, prompts: PromptSet, pool: str) -> Floats | list[Floats]:
    column = table["values"].combine_chunks()
    values: Floats = column.flatten().to_numpy().reshape(len(column), -1)
    if pool != "none":
        return values
    ends = _ends(table["prompt"].to_pylist(), prompts)
    return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _ends(owners: list[str], prompts: PromptSet) -> list[int]:
    """For each prompt, the row after its last one; rows are in the order of the prompts."""
    counts = dict.fromkeys(prompts.ids, 0)
    for owner in owners:
        counts[owner] += 1
    return list(itertools.accumulate(counts.values()))
