"""Stored statistics: arrays computed during the passes, one NumPy file per part."""

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import StoreError
from neuroscope.files import absolute, atomic_write
from neuroscope.storage.manifest import read_manifest
from neuroscope.storage.parts import HEADER, NUMPY, Part, check_header, damaged, missing, unreadable

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by their names."""

_BLOCK_BYTES = 2**20
"""Bytes that are in memory at once while a checksum is verified."""

UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(KeyError, ValueError, RuntimeError),  # from entries that zipfile or NumPy cannot interpret
)
"""Errors of a damaged file of arrays."""


def check_name(name: str) -> None:
    """Raise ValueError unless a name is valid for statistics, such as `geometry-3f2a`.

    The text after the hyphen identifies the settings of the statistics: other settings need
    another name. The hyphen distinguishes statistics from tables, whose names have none.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)+", name):
        raise ValueError(f"statistics cannot be named {name!r}; use a name such as geometry-3f2a")


def write_arrays(folder: Path, part: Part, arrays: Arrays) -> int:
    """Write the arrays of a part, atomically.

    Args:
        folder: folder of the activations.
        part: header of the file.
        arrays: arrays of numbers or text, not of objects.

    Returns:
        Number of bytes by which the folder has grown.

    Raises:
        OSError: the disk is full or fails, and the part is not written.
    """
    path = part.path(folder, NUMPY)
    path.parent.mkdir(exist_ok=True)
    before = path.stat().st_size if path.is_file() else 0
    with atomic_write(path) as file:
        header = np.array([part.to_json(), json.dumps(list(arrays))])
        np.savez(file, allow_pickle=False, **{HEADER: header}, **arrays)
        size = file.tell()
    return size - before


def verified_arrays(folder: Path, expected: Part) -> bool:
    """Return whether a part's file exists, is not truncated, and is the expected part.

    The arrays are verified only when they are read.
    """
    try:
        part, _ = _read_header(expected.path(folder, NUMPY))
    except UNREADABLE:
        return False
    return part is not None and part.matches(expected)


def read_arrays(folder: Path, expected: Part, start: str = "") -> Arrays:
    """Return the arrays of a part.

    Args:
        folder: folder of the activations.
        expected: header of the file.
        start: text with which the names of the arrays to read begin.

    Raises:
        StoreError: the file is missing, damaged, or not the expected part.
    """
    path = expected.path(folder, NUMPY)
    try:
        part, names = _read_header(path)
        check_header(path, part, expected)
        names = [name for name in names if name.startswith(start)]
        _verify(path, names)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except FileNotFoundError as error:
        raise missing(path) from error
    except PermissionError as error:
        raise unreadable(path, error) from error
    except UNREADABLE as error:
        raise damaged(path, error) from error


def _verify(path: Path, names: Sequence[str]) -> None:
    """Read some arrays of a file, which verifies their checksums; NumPy would interpret them first.

    Raises:
        zipfile.BadZipFile: a checksum does not match.
    """
    with zipfile.ZipFile(path) as archive:
        for name in names:
            with archive.open(f"{name}.npy") as entry:
                while entry.read(_BLOCK_BYTES):
                    pass


def _read_header(path: Path) -> tuple[Part | None, list[str]]:
    """Return the header of a file, and the names of its arrays."""
    with zipfile.ZipFile(path) as archive:
        content = archive.read(f"{HEADER}.npy")  # verifies the checksum
    part, names = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return Part.from_json(part), json.loads(names)


def read_statistics(folder: str | Path, name: str, start: str = "") -> Iterator[Arrays]:
    """Iterate over the arrays of statistics part by part, in the order of the prompts.

    >>> for arrays in read_statistics(stored.folder, "geometry-3f2a"): ...

    Each part is read when it is requested, so only one part at a time is in memory.

    Args:
        folder: folder of the activations.
        name: name of the statistics.
        start: text with which the names of the arrays to read begin; others are not read.

    Raises:
        StoreError: the folder is incomplete or damaged, or does not hold these statistics.
    """
    folder = absolute(folder)
    manifest = read_manifest(folder)
    if name not in manifest.statistics:
        held = ", ".join(manifest.statistics) or "none"
        raise StoreError(f"{folder} does not hold the statistics {name}; it holds {held}")
    parts = [manifest.part(name, number) for number in range(len(manifest.parts))]
    return (read_arrays(folder, part, start) for part in parts)
