"""Health of the whole stack, at one address: `curl http://127.0.0.1:5080/health`.

`python -m flows.health` serves it, and at `/` a page with the addresses of all forms and runs. The
servers are those that `MLFLOW_TRACKING_URI` and `PREFECT_API_URL` name; logins are read from the
variables that MLflow and Prefect read.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from neuroscope.errors import NeuroscopeError, StackError
from neuroscope.files import size_text
from neuroscope.home import home
from neuroscope.redaction import redacted
from neuroscope.reporting.experiments import experiment_name
from neuroscope.reporting.mlflow_pages import runs_page
from neuroscope.reporting.tracking_server import browser_address
from neuroscope.storage.disk import free_bytes
from neuroscope.web.settings import HEALTH as INTERFACE_PATH

PATH, ALIVE = "/health", "/alive"
INTERFACE = "NEUROSCOPE_UI_ADDRESS"
"""Variable with the address of the interface; without it, there is none."""
LINK = "NEUROSCOPE_UI_LINK"
"""Variable with its address for browsers, if it differs."""
_LEAST_FREE = 10**9  # bytes on the disk of the home folder
_RECENT = timedelta(seconds=50)  # since the last sign of life of a worker, one each 30 seconds


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
        **({"interface": _check_interface} if os.environ.get(INTERFACE) else {}),
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
    _experiments()
    return "answers"


def _experiments() -> dict[str, str]:
    """Return the ids of the experiments of studies by the kinds of study, from MLflow."""
    login = [os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD")]
    prefix = experiment_name("")
    answer = _get(
        f"{os.environ.get('MLFLOW_TRACKING_URI', '')}/api/2.0/mlflow/experiments/search",
        "MLflow",
        params={"max_results": 100, "filter": f"name LIKE '{prefix}%'"},
        auth=(login[0], login[1]) if all(login) else None,
    )
    rows = answer.get("experiments", [])
    return {row["name"].removeprefix(prefix): row["experiment_id"] for row in rows}


def _get(address: str, server: str, **options: Any) -> dict[str, Any]:
    """Return the JSON document at an address; raise StackError if the server does not send it."""
    import httpx

    try:
        response = httpx.get(address, timeout=10, trust_env=False, **options)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StackError(f"{server} does not answer: {error}") from error
    if not response.is_success:
        raise StackError(f"{server} answers with status {response.status_code}; see its log")
    document: dict[str, Any] = response.json()
    return document


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
        raise StackError(f"no worker has polled in the last {_RECENT.seconds} seconds")
    if not (deployed := server.deployment_pages()):
        raise StackError("a worker polls, but no flow is deployed")
    return f"polls; {len(deployed)} flows are ready to run"


def _check_interface() -> str:
    """Ask the interface, which has a model in memory once it was used."""
    _get(f"{os.environ[INTERFACE]}{INTERFACE_PATH}", "the interface")
    return "answers"


def _check_disk() -> str:
    free = free_bytes(home())
    if free < _LEAST_FREE:
        raise StackError(f"{size_text(free)} free for {home()}, less than {size_text(_LEAST_FREE)}")
    return f"{size_text(free)} free"


def links_page() -> str:
    """Return a page with the addresses of all forms in Prefect and of all runs in MLflow."""
    parts = [f"<p><a href='{PATH}'>Health of all services</a></p>"]
    if interface := os.environ.get(LINK) or os.environ.get(INTERFACE):
        parts.append(f"<p><a href='{escape(interface)}'>Type prompts, see neurons</a></p>")
    for title, links in (("Start a flow", _forms), ("Runs, with charts", _runs)):
        try:
            items = [
                f"<li><a href='{escape(address)}'>{escape(name)}</a></li>"
                for name, address in sorted(links().items())
            ]
        except NeuroscopeError as error:
            items = [f"<li>{escape(str(error))}</li>"]
        parts.append(f"<h2>{title}</h2><ul>{''.join(items) or '<li>none yet</li>'}</ul>")
    return _PAGE.format("".join(parts))


_PAGE = (
    "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>neuroscope</title>"
    "<style>body {{font: 16px/1.5 sans-serif; margin: 3em auto; max-width: 40em; color: #222}}"
    " a {{color: #1f5fa8}}</style></head><body><h1>neuroscope</h1>{}</body></html>"
)


def _forms() -> dict[str, str]:
    """Return the address of the form of each deployment, for a browser."""
    from flows.prefect_server import PrefectServer

    server = PrefectServer.from_environment()
    pages = server.deployment_pages()
    return {name: server.for_browser(address) for name, address in pages.items()}


def _runs() -> dict[str, str]:
    """Return the address of the charts of each kind of study, for a browser."""
    server = browser_address(os.environ.get("MLFLOW_TRACKING_URI", ""))
    return {kind: runs_page(server, id) for kind, id in _experiments().items()}


class _Handler(BaseHTTPRequestHandler):
    """Answers requests of the health as JSON, with status 503 unless all is well."""

    def do_GET(self) -> None:
        if self.path == "/":
            self._send(200, "text/html; charset=utf-8", links_page().encode())
        elif self.path == PATH:
            self._answer_health()
        else:
            self._answer(200 if self.path == ALIVE else 404, {"health": PATH})

    def _answer_health(self) -> None:
        checks = stack_health()
        ok = all(check.ok for check in checks.values())
        parts = {name: asdict(check) for name, check in checks.items()}
        document = {"status": "ok" if ok else "failing", "checks": parts}
        self._answer(200 if ok else 503, document)

    def _answer(self, status: int, document: Mapping[str, object]) -> None:
        self._send(status, "application/json", json.dumps(document, indent=2).encode() + b"\n")

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
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
