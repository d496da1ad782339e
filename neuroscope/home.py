"""Where neuroscope keeps what it makes on this machine."""

import os
from pathlib import Path


def home() -> Path:
    """The folder of the embedded databases, stored activations and logs, made if missing.

    `NEUROSCOPE_HOME` names it; the default is `~/.neuroscope`.
    """
    folder = Path(os.environ.get("NEUROSCOPE_HOME") or Path.home() / ".neuroscope")
    folder = folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
