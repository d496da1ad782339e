"""Files: where they are, how large, and writing one whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def absolute(path: str | Path) -> Path:
    """The absolute path of a file or folder, `~` being the user's home.

    Libraries take other paths for addresses: `run:1` for something on a server named `run`.
    """
    return Path(path).expanduser().absolute()


def size_text(size: float) -> str:
    """Bytes, for a person to read.

    >>> size_text(4_642_000_000)
    '4.6 GB'
    """
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_:
            return f"{size / bytes_:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"


@contextmanager
def atomic_write(path: Path, *, alone: bool = True) -> Iterator[BinaryIO]:
    """A file that gets its name once it is whole and on the disk; if writing fails, none is left.

    Until then it is a hidden one beside it, which readers of the folder pass over.

    >>> with atomic_write(Path("manifest.json")) as file:
    ...     file.write(b"{}")

    Args:
        path: of the file; what is there is replaced.
        alone: no other process writes the same file at this time.

    Raises:
        OSError: the disk is full or fails.
    """
    unfinished = path.with_name(f".{path.name}" if alone else f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _keep_names(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _keep_names(folder: Path) -> None:
    """Puts the names of a folder's files on the disk, where folders can be opened for that."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network drives cannot
                raise
        finally:
            os.close(opened)
