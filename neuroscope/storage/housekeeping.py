"""Listing the activations stored on this machine, and removing those that are no longer used."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from neuroscope.errors import StoreError
from neuroscope.storage.activation_store import store_root
from neuroscope.storage.locks import locked_if_free
from neuroscope.storage.manifest import MANIFEST, UNFINISHED, Manifest
from neuroscope.storage.parts import (
    NUMPY,
    PARQUET,
    PROMPTS,
    TOKENS,
    Part,
    read_part_header,
)

State = Literal["complete", "unfinished", "damaged"]
"""States of a folder of activations."""


@dataclass(frozen=True)
class StoredFolder:
    """Folder of activations in the store."""

    folder: Path
    """Path of the folder."""
    state: State
    """State of the folder. A folder that another process is writing is `unfinished` too; `damaged`
    means that the manifest cannot be read or that a file is missing."""
    manifest: Manifest | None = field(repr=False)
    """Manifest of the folder; None if it cannot be read."""
    bytes: int
    """Size of the folder on disk."""
    last_used: datetime
    """Time in UTC when activations were last written to the folder or requested from it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON values; those of an unreadable manifest are None."""
        manifest = self.manifest
        key = manifest.key if manifest else None
        return {
            "folder": str(self.folder),
            "state": self.state,
            "model": manifest.provenance.model if manifest else None,
            "sites": [str(site) for site in key.sites] if key else None,
            "prompts": manifest.prompts if manifest else None,
            "token_rule": key.token_rule if key else None,
            "pool": key.pool if key else None,
            "dtype": key.dtype if key else None,
            "values": manifest.values if manifest else None,
            "statistics": list(manifest.statistics) if manifest else None,
            "bytes": self.bytes,
            "last_used": self.last_used.isoformat(timespec="seconds"),
        }


@dataclass(frozen=True)
class Pruned:
    """Result of `prune_store`."""

    removed: tuple[StoredFolder, ...]
    """Folders that were removed."""
    in_use: tuple[Path, ...]
    """Folders that were skipped because another process is writing them."""

    @property
    def bytes_freed(self) -> int:
        """Size of all removed folders together."""
        return sum(entry.bytes for entry in self.removed)


def list_store() -> list[StoredFolder]:
    """Return the folders of activations in this machine's store, most recently used first.

    Raises:
        StoreError: the store cannot be read.
    """
    entries = [_describe(folder) for folder in _store_folders()]
    return sorted(entries, key=lambda entry: entry.last_used, reverse=True)


def prune_store(unused_for: timedelta | None = None) -> Pruned:
    """Remove folders of activations from this machine's store.

    A folder that another process is writing is skipped, and so is anything in the store that is
    not a folder of activations. A process that only reads a folder does not protect it.

    Args:
        unused_for: time without use after which a folder is removed; by default all folders are
            removed.

    Raises:
        StoreError: a folder cannot be removed.
    """
    removed, in_use = [], []
    for folder in _store_folders():
        with _store_errors(folder), locked_if_free(folder) as free:
            if not free:
                in_use.append(folder)
            elif folder.exists():
                entry = _describe(folder)
                if unused_for is None or datetime.now(UTC) - entry.last_used >= unused_for:
                    _remove(folder)
                    removed.append(entry)
    return Pruned(tuple(removed), tuple(in_use))


def _store_folders() -> list[Path]:
    """Return the folders of activations in the store, sorted by name."""
    root = store_root()
    with _store_errors(root):
        paths = sorted(root.iterdir()) if root.exists() else []
    return [path for path in paths if _is_store_folder(path)]


def _is_store_folder(path: Path) -> bool:
    """Return whether a path is a folder of the store, judged by its name and contents."""
    if not re.fullmatch(r"[0-9a-f]{32}", path.name) or path.is_symlink() or not path.is_dir():
        return False
    if (path / MANIFEST).exists() or (path / UNFINISHED).exists():
        return True
    header = read_part_header(Part(path.name, PROMPTS, 0, 0, 0).path(path))
    return header is not None and header.key == path.name


def _describe(folder: Path) -> StoredFolder:
    """Return the entry of a folder, which another process may be writing."""
    size, last_used = 0, 0.0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # removed meanwhile by the process that writes it
                status = Path(root, name).stat()
                size, last_used = size + status.st_size, max(last_used, status.st_mtime)
    state, manifest = _state(folder)
    return StoredFolder(folder, state, manifest, size, datetime.fromtimestamp(last_used, UTC))


def _state(folder: Path) -> tuple[State, Manifest | None]:
    """Return the state of a folder, and its manifest if that can be read."""
    try:
        manifest = Manifest.read(folder / MANIFEST)
        if manifest:
            intact = all(path.exists() for path in _files(folder, manifest))
            return "complete" if intact else "damaged", manifest
        manifest = Manifest.read(folder / UNFINISHED)
    except StoreError:
        return "damaged", None
    return "unfinished" if manifest else "damaged", manifest


def _files(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """Yield the paths of the files that the manifest of a complete folder declares."""
    sites = manifest.sites if manifest.values else ()
    tables = (PROMPTS, TOKENS, *map(str, sites))
    for number in range(len(manifest.parts)):
        for table in tables:
            yield manifest.part(table, number).path(folder, PARQUET)
        for name in manifest.statistics:
            yield manifest.part(name, number).path(folder, NUMPY)


def _remove(folder: Path) -> None:
    """Remove a folder; if the process is killed, the rest is listed as unfinished or damaged."""
    if (folder / MANIFEST).exists():
        (folder / MANIFEST).replace(folder / UNFINISHED)
    last = (PROMPTS, UNFINISHED)  # `_is_store_folder` recognises the folder by these
    for path in sorted(folder.iterdir(), key=lambda path: path.name in last):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    folder.rmdir()


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    """Translate errors of the file system into StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot read or remove {path} ({error.strerror or error})",
            remedy="check its permissions",
        ) from error
