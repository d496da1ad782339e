"""The folder in which neuroscope stores what it computes on this machine."""

import os
from pathlib import Path

from neuroscope.errors import NeuroscopeError
from neuroscope.files import absolute


def home() -> Path:
    """Return the folder of the embedded databases, stored activations and logs.

    The environment variable `NEUROSCOPE_HOME` names it; the default is `~/.neuroscope`. The folder
    may not exist yet: `create_home` creates it.
    """
    return absolute(os.environ.get("NEUROSCOPE_HOME") or Path.home() / ".neuroscope")


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
