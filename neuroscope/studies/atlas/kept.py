"""Results of a step that are kept in a file, and made again if the file is damaged."""

import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from neuroscope.storage.disk import disk_errors
from neuroscope.storage.statistics import UNREADABLE

_log = logging.getLogger("neuroscope")


class _Savable(Protocol):
    """Result that can be written to a file."""

    def save(self, path: Path) -> None: ...


_Kept = TypeVar("_Kept", bound=_Savable)


def kept_in(path: Path, load: Callable[[Path], _Kept], make: Callable[[], _Kept]) -> _Kept:
    """Return what a file holds; if it does not exist or is damaged, make and save that.

    Args:
        path: NumPy file, which is replaced atomically.
        load: function that reads the file.
        make: function that computes the result.

    Raises:
        ResourceError: the disk is full.
        StoreError: the file cannot be written for any other reason.
    """
    try:
        if path.is_file() and not zipfile.is_zipfile(path):  # NumPy would leave the file open
            raise zipfile.BadZipFile("it is truncated or another file")
        return load(path)
    except FileNotFoundError:
        pass
    except (*UNREADABLE, TypeError) as error:
        _log.warning("%s is damaged (%s) and is written again", path, error)
    made = make()
    with disk_errors(path.parent):
        made.save(path)
    return made
