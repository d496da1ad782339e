"""Identity of the process that has a run open, and whether that process is still alive.

A process holds a lock on a file in the home folder for as long as it lives; the system releases the
lock however the process ends. No decision depends on a host name, a process id or a clock.
"""

import os
import re
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from neuroscope.home import create_home, home

_FOLDER = "processes"
_DAYS_KEPT = 7
"""Days after which the file of a process that has ended is removed; its runs are closed by then."""

_held: dict[tuple[int, Path], tuple[str, FileLock]] = {}
"""Process id and home folder -> name and lock of this process, or of one that forked it."""
_holding = threading.Lock()


def this_process() -> str:
    """Return a unique name of this process, whose lock it holds from the first call on.

    Raises:
        NeuroscopeError: the home folder cannot be written.
    """
    key = os.getpid(), home()
    with _holding:
        if key not in _held:
            folder = create_home(_FOLDER)
            _remove_old(folder)
            _held[key] = _named_lock(folder)
        return _held[key][0]


def is_gone(owner: str) -> bool:
    """Return whether a process has ended; False if this home folder has no file of the process.

    Args:
        owner: name of the process, from `this_process`.
    """
    token, _, inode = owner.rpartition(" ")[2].partition(".")
    if not re.fullmatch("[0-9a-f]{32}", token):
        return False
    path = home() / _FOLDER / f"{token}.lock"
    with suppress(OSError):  # most often there is no such file
        # a copied home folder has the files of live processes, but nobody holds their locks
        return path.stat().st_ino == int(inode) and _is_free(path)
    return False


def _named_lock(folder: Path) -> tuple[str, FileLock]:
    """Create a file, lock it, and return the name of its owner and the lock."""
    token = secrets.token_hex(16)
    path = folder / f"{token}.lock"
    lock = FileLock(path)
    lock.acquire(timeout=0)
    # the host name and the process id are for people
    return f"{socket.gethostname()} {os.getpid()} {token}.{path.stat().st_ino}", lock


def _is_free(path: Path) -> bool:
    """Return whether no process holds the lock on a file."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def _remove_old(folder: Path) -> None:
    """Remove old files of processes that have ended."""
    oldest = time.time() - _DAYS_KEPT * 86400
    for path in folder.glob("*.lock"):
        with suppress(OSError):  # another process removes it too
            if path.stat().st_mtime < oldest and _is_free(path):
                path.unlink()
