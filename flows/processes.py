"""Python processes that are started, watched and ended together, each with a log file."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.errors import StackError

if TYPE_CHECKING:
    from psutil import Process

MARK = "NEUROSCOPE_UP"
"""In the environment of everything that was started: the id of the process that started it."""
_GRACE = 10.0  # seconds to end in, before the end comes by force
_TAIL = 15  # lines of a log that an error shows


class Children:
    """Python processes that end together.

    >>> children = Children(logs, dict(os.environ))
    >>> children.start("mlflow", "-m", "mlflow", "server")
    >>> children.wait_until("mlflow", answers, limit=60)
    >>> children.stop("mlflow")
    >>> children.kill()
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]):
        self._logs = logs
        self._environment = {**environment, MARK: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        self._all: dict[str, Child] = {}

    def start(self, name: str, *arguments: str, cwd: Path | None = None, ends: bool = False) -> int:
        """Starts Python with these arguments and gives the process id.

        Args:
            ends: whether it may end by itself.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=cwd or self._logs,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process only, which then stops them
            )
        self._all[name] = Child(name, process, log, ends)
        return process.pid

    def run(self, name: str, *arguments: str, limit: float, cwd: Path | None = None) -> None:
        """Runs Python with these arguments to its end.

        Raises:
            StackError: it fails or takes more than `limit` seconds, or another child ends.
        """
        self.start(name, *arguments, cwd=cwd, ends=True)
        child = self._all[name]
        self.wait_until(name, lambda: child.process.poll() is not None, limit)
        if code := child.process.returncode:
            raise StackError(f"{name} failed (exit code {code}); {child.log_tail()}")

    def wait_until(self, name: str, ready: Callable[[], bool], limit: float) -> None:
        """Waits until a child is ready.

        Raises:
            StackError: it is not after `limit` seconds, or a child ends.
        """
        last = time.monotonic() + limit
        while not ready():
            self.check()
            if time.monotonic() > last:
                tail = self._all[name].log_tail()
                raise StackError(f"{name} is not ready after {limit:.0f} seconds; {tail}")
            time.sleep(0.1)

    def check(self) -> None:
        """Raises StackError where a child has ended that was to go on."""
        for child in self._all.values():
            code = child.process.poll()
            if code is not None and not child.ends:
                raise StackError(f"{child.name} has ended (exit code {code}); {child.log_tail()}")

    def below(self, name: str) -> "list[Process]":
        """The processes that a child has started and that still run."""
        import psutil

        if name not in self._all:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self._all[name].process.pid).children()
        return []

    def stop(self, *names: str) -> None:
        """Ends these children with SIGTERM, by force if they do not heed it."""
        import psutil

        found = []
        for child in (self._all[name] for name in names if name in self._all):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(child.process.pid))
        end(found)

    def kill(self) -> None:
        """Kills what is left of the children and of all that they started."""
        for _ in range(10):  # they may start others meanwhile
            left = marked_processes(os.getpid())
            if not left:
                break
            end(left, grace=0)
        for child in self._all.values():
            child.process.wait()
        self._all.clear()


@dataclass(frozen=True)
class Child:
    """A process that was started, and the file its output goes to."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    ends: bool

    def log_tail(self) -> str:
        """The last lines of its output."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line.rstrip() for line in lines if line.strip()]
        return "\n".join([f"the end of {self.log}:", *told[-_TAIL:]])


def end(processes: "Iterable[Process]", grace: float = _GRACE) -> "list[Process]":
    """Ends processes with SIGTERM; gives those that had to be killed, after `grace` seconds."""
    import psutil

    processes = list(processes)
    for process in processes:
        _quietly(process.terminate)
    _, left = psutil.wait_procs(processes, grace)
    for process in left:
        _quietly(process.kill)
    psutil.wait_procs(left, grace)
    return left


def marked_processes(owner: int | None = None) -> "list[Process]":
    """What this process, or any, has started as a child and still runs, whoever its parent is."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            mark = process.environ().get(MARK)
            if mark and owner in (None, int(mark)):
                found.append(process)
    return found


def _quietly(action: Callable[[], None]) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        action()
