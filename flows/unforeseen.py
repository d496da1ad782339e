"""Last resort: a command that fails for a reason that nobody foresaw leaves a log file."""

import datetime
import os
import sys
import tempfile
import traceback
from pathlib import Path

from neuroscope.errors import NeuroscopeError
from neuroscope.home import home
from neuroscope.redaction import redacted

EXIT_CODE = 70  # EX_SOFTWARE in sysexits.h


def report_unforeseen(error: Exception) -> int:
    """Print one sentence on an unforeseen error, with the place of its traceback.

    Returns:
        Exit code of the command.
    """
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    try:
        where = f"the traceback is in {_write_log(error)}"
    except (OSError, NeuroscopeError) as failure:
        where = f"its traceback cannot be written ({failure})"
    message = f"error: neuroscope failed unexpectedly ({redacted(reason)}); {where}"
    print(f"{message}; please report it", file=sys.stderr)
    return EXIT_CODE


def _write_log(error: Exception) -> Path:
    """Write the traceback to a new file in the home folder, or else the temporary folder."""
    from neuroscope.provenance import library_versions

    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    trace = "".join(traceback.format_exception(error))
    text = redacted(f"{' '.join(sys.argv)}\n{versions}\n\n{trace}")
    name = f"error-{datetime.datetime.now():%Y-%m-%d-%H%M%S}-{os.getpid()}.log"
    for in_home in (True, False):
        try:
            folder = home() / "logs" if in_home else Path(tempfile.gettempdir())
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"neuroscope-{name}"
            file.write_text(text, encoding="utf-8", errors="backslashreplace")
            return file
        except (OSError, NeuroscopeError) as failure:
            problem = failure
    raise problem
