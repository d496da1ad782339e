"""Runs that clients name by their ids."""

from neuroscope.reporting.run_reader import RunReader
from neuroscope.web.kept import GoneError


def check_recorded(kind: str, run_id: str) -> RunReader:
    """Return a connection to MLflow if it has a run of a kind of study.

    Raises:
        GoneError: there is no such run.
        TrackingError: MLflow cannot be reached.
    """
    reader = RunReader.connect()
    if reader.kind_of(run_id) != kind:
        raise GoneError(f"no run '{run_id[:40]}' of '{kind}' is recorded", remedy="see the list")
    return reader
