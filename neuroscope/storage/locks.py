"""Locks on folders of activations, so that only one process at a time writes a folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from neuroscope.errors import StoreError
from neuroscope.progress import Progress

_log = logging.getLogger("neuroscope")


@contextmanager
def locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock on a folder, which need not exist; wait while another process holds it.

    The lock is a hidden file beside the folder. It is never removed: a process that has opened the
    file before it is removed, and one that creates it again, could each hold a lock. filelock
    notices this by the number of links of the file, which network file systems do not report.
    Processes that only read the folder need no lock.

    Args:
        folder: folder to lock.
        progress: callback that is called if another process must be waited for.

    Raises:
        StoreError: the lock cannot be created.
    """
    lock = _lock_of(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lock, folder, progress)
    except OSError as error:
        raise StoreError(
            f"cannot lock {folder}: cannot write to {folder.parent} ({error.strerror})",
            remedy="choose a folder whose parent folder is writable",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_if_free(folder: Path) -> Iterator[bool]:
    """Hold the lock on a folder, or yield False at once if another process holds it."""
    lock = _lock_of(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _lock_of(folder: Path) -> FileLock:
    """Return the lock on a folder, not yet acquired."""
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def _acquire(lock: FileLock, folder: Path, progress: Progress) -> None:
    """Acquire a lock; report it if another process must be waited for."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.info("another process writes to %s: waiting for it", folder)
        progress("wait for another process", 0, 1)
        lock.acquire()
