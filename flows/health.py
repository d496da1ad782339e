"""Health of the whole stack, at one address: `curl http://127.0.0.1:5080/health`.

`python -m flows.health` serves it. The servers are those that `MLFLOW_TRACKING_URI` and
`PREFECT_API_URL` name; logins are read from the variables that MLflow and Prefect read.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from neuroscope.errors import NeuroscopeError, StackError
from neuroscope.files import size_text
from neuroscope.home import home
from neuroscope.redaction import redacted
from neuroscope.storage.disk import free_bytes

PATH = "/health"
_LEAST_FREE = 10**9  # bytes on the disk of the home folder
_RECENT = timedelta(seconds=90)  # since the last sign of life of a worker


@dataclass(frozen=True)
class Check:
    """Result of the check of one part of the stack."""

    ok: bool
    message: str
    """What was found, or what is wrong."""
    seconds: float
    """Time that the check took."""


def stack_health() -> dict[str, Check]:
    """Return the result of each check, by the name of the part."""
    checks: Mapping[str, Callable[[], str]] = {
        "mlflow": _check_mlflow,
        "prefect": _check_prefect,
        "worker": _check_worker,
        "disk": _check_disk,
    }
    return {name: _timed(check) for name, check in checks.items()}


def _timed(check: Callable[[], str]) -> Check:
    start = time.monotonic()
    try:
        message, ok = check(), True
    except NeuroscopeError as error:
        message, ok = str(error), False
    except Exception as error:  # whatever it is, the answer has to say that something is wrong
        message, ok = redacted(f"{type(error).__name__}: {error}"), False
    return Check(ok, message, round(time.monotonic() - start, 3))


def _check_mlflow() -> str:
    """Search experiments, which MLflow reads from its database."""
    import httpx

    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    login = [os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD")]
    search = f"{address}/api/2.0/mlflow/experiments/search"
    try:
        response = httpx.get(
            search,
            params={"max_results": 1},
            auth=(login[0], login[1]) if all(login) else None,
            timeout=10,
            trust_env=False,
        )
        response.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StackError(f"MLflow does not answer: {error}") from error
    return "answers"


def _check_prefect() -> str:
    """Read work pools, which Prefect reads from its database."""
    from flows.prefect_server import PrefectServer

    PrefectServer.from_environment().responds()
    return "answers"


def _check_worker() -> str:
    """Check that a worker has lately polled for flow runs, and that flows are deployed."""
    from flows.prefect_server import PrefectServer

    server = PrefectServer.from_environment()
    if not server.has_worker(since=datetime.now(UTC) - _RECENT):
        raise StackError(f"no worker has polled within {_RECENT.seconds} seconds")
    if not (deployed := server.deployment_pages()):
        raise StackError("no flow is ready to run")
    return f"polls; {len(deployed)} flows are ready to run"


def _check_disk() -> str:
    free = free_bytes(home())
    if free < _LEAST_FREE:
        raise StackError(f"{size_text(free)} free for {home()}, less than {size_text(_LEAST_FREE)}")
    return f"{size_text(free)} free"


class _Handler(BaseHTTPRequestHandler):
    """Answers requests of the health as JSON, with status 503 unless all is well."""

    def do_GET(self) -> None:
        if self.path != PATH:
            self._answer(200 if self.path == "/" else 404, {"health": PATH})
            return
        checks = stack_health()
        ok = all(check.ok for check in checks.values())
        parts = {name: asdict(check) for name, check in checks.items()}
        document = {"status": "ok" if ok else "failing", "checks": parts}
        self._answer(200 if ok else 503, document)

    def _answer(self, status: int, document: Mapping[str, object]) -> None:
        content = json.dumps(document, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: health is asked for every few seconds."""


def main() -> None:
    """Serve the health until the process ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=5080, help="port to listen on")
    options = parser.parse_args()
    ThreadingHTTPServer((options.host, options.port), _Handler).serve_forever()


if __name__ == "__main__":
    main()
