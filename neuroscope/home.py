"""The folder in which neuroscope stores what it computes on this machine."""

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
