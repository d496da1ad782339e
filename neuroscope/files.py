"""Absolute paths, sizes as text, and atomic writing of files."""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from neuroscope.errors import NeuroscopeError

FileVersion = tuple[int, ...]
"""Values that differ between a file and another one, or a later version, under the same path."""


def file_version(status: os.stat_result) -> FileVersion:
    """Return what identifies the version of a file, given its status."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def absolute(path: str | Path) -> Path:
    """Return the absolute path of a file or folder; `~` stands for a home folder.

    Other libraries interpret some relative paths as addresses: pyarrow takes `run:1` for a file on
    a server named `run`.

    Raises:
        NeuroscopeError: the path starts with `~name` and there is no such user.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise NeuroscopeError(
            f"cannot expand '{path}': there is no such user", remedy="give the full path"
        ) from error


def size_text(size: float) -> str:
    """Return a number of bytes as readable text.

    >>> size_text(4_642_000_000)
    '4.6 GB'
    """
    for unit, unit_bytes in (("GB", 1e9), ("MB", 1e6)):
        if size >= unit_bytes:
            return f"{size / unit_bytes:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when it is complete and on the disk.

    >>> with atomic_write(Path("manifest.json")) as file:
    ...     file.write(b"{}")

    Until then the bytes are in a hidden file in the same folder, under a name that no other writer
    uses. If writing fails, the hidden file is removed, and a file that exists at `path` stays
    unchanged.

    Raises:
        OSError: the disk is full or fails.
    """
    # not from `tempfile`, whose files only their owner can read
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def stored_once(folder: Path, fill: Callable[[Path], None], *, again: bool = False) -> Path:
    """Return a folder, which is created atomically if it does not exist.

    Args:
        folder: path of the folder; only one process at a time fills it.
        fill: function called with an empty folder, into which it writes the files.
        again: whether to replace an existing folder.
    """
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if again or not folder.is_dir():
            unfinished = folder.with_name(f".{folder.name}")
            remove = partial(shutil.rmtree, ignore_errors=True)
            remove(unfinished)  # a killed process may have left it
            unfinished.mkdir()
            try:
                fill(unfinished)
                remove(folder)
                unfinished.rename(folder)
            finally:
                remove(unfinished)
    return folder


def remove_leftovers(folder: Path) -> None:
    """Remove the hidden files of `atomic_write` that a killed process left in a folder."""
    for path in folder.glob(".*.tmp"):
        path.unlink()


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, on systems that can open folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # some network drives do not support it
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)
