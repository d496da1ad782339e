"""Local MLflow server, which alone can read the artifacts of its clients."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from neuroscope.reporting.tracking_server import SERVER_SETTINGS, server_arguments


class Server:
    """Running server, its address and its folder; `stop` ends it and the processes it started."""

    def __init__(self, folder: Path, port: int, arguments: list[str]):
        self.folder = folder
        self.address = f"http://127.0.0.1:{port}"
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                env=os.environ | SERVER_SETTINGS,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self, limit: float = 120) -> None:
        """Wait until the server responds."""
        deadline = time.monotonic() + limit
        while not self._responds():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        server = psutil.Process(self._process.pid) if self._process.poll() is None else None
        processes = [*server.children(recursive=True), server] if server else []
        for process in processes:
            process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=10)
        for process in alive:
            process.kill()
        self._process.wait()

    def _responds(self) -> bool:
        try:
            return httpx.get(f"{self.address}/health", timeout=5).is_success
        except httpx.HTTPError:
            return False


@contextmanager
def serving(folder: Path, empty_database: Path) -> Iterator[Server]:
    """Serve a copy of an empty database until the block ends."""
    database = shutil.copy(empty_database, folder / "served.db")
    port = free_port()
    arguments = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--workers", "1", "--backend-store-uri", f"sqlite:///{database}"]
    arguments += ["--artifacts-destination", (folder / "served").as_uri()]
    with _running(Server(folder, port, arguments)) as server:
        yield server


@contextmanager
def serving_home(home: Path) -> Iterator[str]:
    """Serve the embedded database of a home until the block ends; yield the address."""
    port = free_port()
    with _running(Server(home, port, server_arguments(home, port))) as server:
        yield server.address


@contextmanager
def _running(server: Server) -> Iterator[Server]:
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])
