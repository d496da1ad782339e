"""Record of a running `neuroscope up` in the home folder, with which others find its MLflow."""

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from neuroscope.home import home

_RESPONSE_TIME = 0.3  # seconds; longer waits would be noticed


@contextlib.contextmanager
def recorded_servers(servers: Mapping[str, str]) -> Iterator[None]:
    """Record the servers of this process in the home folder for the duration of the block.

    >>> with recorded_servers({"MLflow": "http://127.0.0.1:5000"}):
    ...     mlflow_port()

    Args:
        servers: display name of each server, such as MLflow -> its address.
    """
    from neuroscope.reporting.run_owner import this_process

    record = {"process": this_process(), "servers": dict(servers)}
    _path().write_text(json.dumps(record), encoding="utf-8")
    try:
        yield
    finally:
        _path().unlink(missing_ok=True)


def mlflow_port() -> int | None:
    """Return the port of the MLflow server of this home folder; None if none responds."""
    from neuroscope.reporting.run_owner import is_gone

    try:
        record = json.loads(_path().read_text(encoding="utf-8"))
        port = urlsplit(record["servers"]["MLflow"]).port
        gone = is_gone(str(record["process"]))
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):  # missing, or damaged by a crash
        return None
    return port if port and not gone and _responds(port) else None


def _responds(port: int) -> bool:
    """Return whether a server on this machine accepts connections at a port."""
    try:
        socket.create_connection(("127.0.0.1", port), _RESPONSE_TIME).close()
    except OSError:
        return False
    return True


def _path() -> Path:
    return home() / "stack.json"
