"""Where neuroscope keeps what it makes on this machine."""

import os
from pathlib import Path

from neuroscope.errors import NeuroscopeError
from neuroscope.files import absolute


def home() -> Path:
    """The folder of the embedded databases, stored activations and logs, made if missing.

    `NEUROSCOPE_HOME` names it; the default is `~/.neuroscope`.

    Raises:
        NeuroscopeError: it cannot be made.
    """
    folder = absolute(os.environ.get("NEUROSCOPE_HOME") or Path.home() / ".neuroscope")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NeuroscopeError(
            f"the folder {folder} cannot be made ({error.strerror}): set NEUROSCOPE_HOME to one"
            " that can"
        ) from error
    return folder
