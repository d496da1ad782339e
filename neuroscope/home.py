"""The folder in which neuroscope stores what it computes, and those from which a server reads."""

import os
import re
from pathlib import Path

from neuroscope.errors import NeuroscopeError
from neuroscope.files import absolute

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and bytes that are not UTF-8."""


def home() -> Path:
    """Return the folder of the embedded databases, stored activations and logs.

    The environment variable `NEUROSCOPE_HOME` names it; the default is `~/.neuroscope`. The folder
    may not exist yet: `create_home` creates it.

    Raises:
        NeuroscopeError: the path has a character that the addresses of the databases cannot hold.
    """
    folder = absolute(os.environ.get("NEUROSCOPE_HOME") or Path.home() / ".neuroscope")
    if found := _FORBIDDEN.search(str(folder)):
        raise NeuroscopeError(
            f"the home folder {str(folder)!r} has the character {found[0]!r} in its path, which the"
            " addresses of databases cannot hold",
            remedy="set NEUROSCOPE_HOME to a folder without this character",
        )
    return folder


def create_home(*subfolder: str) -> Path:
    """Create the home folder or a subfolder of it, unless it exists, and return its path.

    >>> create_home("baseline").name
    'baseline'

    Raises:
        NeuroscopeError: the folder cannot be created.
    """
    folder = home().joinpath(*subfolder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NeuroscopeError(
            f"cannot create {folder} ({error.strerror})",
            remedy="set NEUROSCOPE_HOME to a writable folder",
        ) from error
    return folder


def check_allowed(path: Path) -> None:
    """Check that a path that a user named is in a folder from which this process may read.

    On a server, `NEUROSCOPE_ROOTS` names these folders, separated by colons; the home folder is
    always one of them. If it is not set, as at a desk, every path is allowed. Links are resolved
    before the check.

    Raises:
        NeuroscopeError: the path is outside all of these folders.
    """
    roots = os.environ.get("NEUROSCOPE_ROOTS")
    if not roots:
        return
    allowed = [home(), *map(Path, roots.split(os.pathsep))]
    real = path.resolve()
    if not any(real.is_relative_to(root.resolve()) for root in allowed):
        raise NeuroscopeError(
            f"'{path}' is outside the folders from which this server may read",
            remedy=f"move it into {' or '.join(roots.split(os.pathsep))}",
        )
