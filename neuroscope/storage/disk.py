"""Disk space for activations: estimates, checks before writing, and errors of full disks."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from neuroscope.errors import NeuroscopeError, Option, ResourceError, StoreError
from neuroscope.files import size_text
from neuroscope.storage.parts import NUMPY, PARQUET

_TOKEN_BYTES = 6  # per row of the table of tokens, compressed
_ROW_BYTES = 6  # for the prompt id and position of each row at a site, compressed
_FILE_BYTES = 4096  # of metadata per file
_SPARE_BYTES = 100e6  # kept free at most: a full disk stops other programs too


def estimated_bytes(
    *, rows: int, neurons: int, sites: int, tokens: int, characters: int, parts: int
) -> int:
    """Estimate the size of activations on disk, in bytes.

    Args:
        rows: number of rows per site: of prompts, or of counted tokens at token level.
        neurons: number of neurons of all sites together.
        sites: number of sites.
        tokens: number of tokens of all prompts together.
        characters: number of characters of all prompts together.
        parts: number of files per table.
    """
    values = rows * neurons * 4  # float32, which compression makes only a few per cent smaller
    inputs = tokens * _TOKEN_BYTES + characters
    return values + rows * sites * _ROW_BYTES + inputs + (sites + 2) * parts * _FILE_BYTES


def stored_bytes(folder: Path, suffixes: Sequence[str] = (PARQUET, NUMPY)) -> int:
    """Return the size of a folder's parts in bytes; 0 if the folder does not exist.

    Another process may write to the folder at the same time.
    """
    total = 0
    for root, folders, names in os.walk(folder):  # skips folders that are removed meanwhile
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.endswith(tuple(suffixes)) and not name.startswith("."):
                with suppress(FileNotFoundError):
                    total += Path(root, name).stat().st_size
    return total


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which may not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def check_free_space(folder: Path, needed: int, options: Sequence[Option] = ()) -> None:
    """Raise ResourceError unless `needed` bytes fit on the folder's disk.

    Args:
        folder: folder to write to, which need not exist.
        needed: number of bytes to write.
        options: settings that reduce the number of bytes.
    """
    free, spare = free_bytes(folder), min(_SPARE_BYTES, needed)
    if needed + spare > free:
        needed_text, spare_text, free_text = map(size_text, (needed, spare, free))
        raise ResourceError(
            f"{folder} needs about {needed_text} and {spare_text} to spare, but only {free_text}"
            " are free",
            options=options,
            remedy="write to a folder on another disk, or ask for fewer sites, layers or prompts",
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Translate the errors of a full or failing disk that the block raises.

    Args:
        folder: folder that the block writes to.

    Raises:
        ResourceError: the disk is full.
        StoreError: writing fails for any other reason.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        kind: type[NeuroscopeError] = ResourceError if full else StoreError
        repair = "free some space" if full else "check the disk and its permissions"
        raise kind(
            f"cannot write to {folder} ({error.strerror or error}); the finished parts are kept",
            remedy=f"{repair} and run the same extraction again; it computes only what is missing",
        ) from error
