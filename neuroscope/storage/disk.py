"""How much room activations need on a disk, whether it is there, and what to do if it is not."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuroscope.errors import ResourceError, StoreError
from neuroscope.files import size_text

_TOKEN_BYTES = 6  # of a row of the tokens' table, compressed
_ROW_BYTES = 6  # of a row's id and position at a site, likewise
_PART_BYTES = 4096  # of a file's own framing
_SPARE = 100e6  # most that is left free: a full disk stops other programs too


def estimated_bytes(
    *, rows: int, neurons: int, sites: int, tokens: int, characters: int, parts: int
) -> int:
    """About how many bytes activations take on the disk.

    Args:
        rows: of each site: prompts, or tokens at token level.
        neurons: of all sites together.
        sites: how many.
        tokens: of all prompts together.
        characters: likewise.
        parts: how many files each table is divided into.
    """
    values = rows * neurons * 4  # float32, which compresses by a few per cent only
    inputs = tokens * _TOKEN_BYTES + characters
    return values + rows * sites * _ROW_BYTES + inputs + (sites + 2) * parts * _PART_BYTES


def stored_bytes(folder: Path) -> int:
    """Bytes of the parts that are in a folder, if it is there; another process may write it."""
    total = 0
    for root, folders, names in os.walk(folder):  # passes over what has gone
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.endswith(".parquet") and not name.startswith("."):
                with suppress(FileNotFoundError):
                    total += Path(root, name).stat().st_size
    return total


def free_bytes(folder: Path) -> int:
    """Bytes that may be written to a folder that need not be there yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def check_room(folder: Path, needed: int) -> None:
    """Raises ResourceError unless `needed` bytes fit on the folder's disk."""
    free, spare = free_bytes(folder), min(_SPARE, needed)
    if needed + spare > free:
        needed_text, spare_text, free_text = map(size_text, (needed, spare, free))
        raise ResourceError(
            f"{folder} needs about {needed_text}, and {spare_text} to spare, but {free_text} are"
            " free: name a folder on another disk (--out), or ask for fewer sites, layers or"
            " prompts, or for pooled values instead of every token"
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Says of a full or failing disk what is kept and what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise (ResourceError if full else StoreError)(
            f"writing to {folder} failed ({error.strerror or error}): the finished parts are kept;"
            f" {'make room' if full else 'see to the disk or its permissions'} and run the same"
            " extraction again, which makes only what is missing"
        ) from error
