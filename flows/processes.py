"""Python processes that are started, watched and ended together, each with a log file."""

import contextlib
import itertools
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows import signals
from neuroscope.errors import Option, ResourceError, StackError
from neuroscope.files import size_text
from neuroscope.storage.disk import free_bytes

if TYPE_CHECKING:
    from psutil import Process

MARK = "NEUROSCOPE_UP"
"""Environment variable of every process started here: `<id of the starting process>.<token>`."""
_GRACE = 10.0  # seconds between SIGTERM and SIGKILL
_LEAST_FREE = 2 * 10**8  # bytes with which databases and logs get through a first day
_TAIL = 15  # last lines of a log that an error message shows


class Children:
    """Group of Python processes that end together.

    >>> children = Children(logs, dict(os.environ), limit=60)
    >>> children.start("mlflow", "-m", "mlflow", "server")
    >>> children.wait_until("mlflow", answers)
    >>> children.stop("mlflow")
    >>> children.kill()

    Args:
        logs: folder of the log files.
        environment: environment variables of the processes.
        limit: seconds to wait until a process is ready, or until it ends if it is expected to.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str], *, limit: float):
        self._logs = logs
        self._limit = limit
        self._mark = f"{os.getpid()}.{secrets.token_hex(8)}"
        self._environment = {**environment, MARK: self._mark, "PYTHONUNBUFFERED": "1"}
        self._children: dict[str, Child] = {}

    def start(self, name: str, *arguments: str, cwd: Path | None = None, ends: bool = False) -> int:
        """Start Python with these arguments and return the process id.

        Args:
            name: name of the process and of its log file.
            arguments: arguments of the Python interpreter.
            cwd: working directory; the folder of the log files if not given.
            ends: whether the process is expected to end by itself.
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
                start_new_session=True,  # Ctrl-C reaches this process only, which ends the others
            )
        self._children[name] = Child(name, process, log, ends)
        return process.pid

    def run(self, name: str, *arguments: str) -> None:
        """Run Python with these arguments until it ends.

        Raises:
            StackError: the process fails or takes too long, or another child ends.
        """
        self.start(name, *arguments, ends=True)
        process = self._children[name].process
        self.wait_until(name, lambda: process.poll() == 0)

    def wait_until(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until a child is ready.

        Raises:
            StackError: the child takes too long, or any child fails or ends unexpectedly.
            Interrupted: a signal has arrived.
        """
        deadline = time.monotonic() + self._limit
        while not ready():
            signals.check()
            self.check()
            if time.monotonic() > deadline:
                tail = self._children[name].log_tail()
                raise StackError(
                    f"{name} did not become ready within {self._limit:.0f} seconds; {tail}"
                )
            time.sleep(0.1)

    def check(self) -> None:
        """Raise StackError if a child has failed or has ended unexpectedly."""
        for child in self._children.values():
            code = child.process.poll()
            if code is not None and not (child.ends and code == 0):
                raise StackError(f"{child.name} has ended (exit code {code}); {child.log_tail()}")

    def below(self, name: str) -> "list[Process]":
        """Return the running processes that a child has started."""
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            return [child for process in self._running(name) for child in process.children()]
        return []

    def settle(self, name: str) -> None:
        """Wait until a child has had no process of its own for two seconds, at most ten seconds."""
        deadline = time.monotonic() + _GRACE
        quiet = time.monotonic()
        while time.monotonic() < min(deadline, quiet + 2):
            if self.below(name):
                quiet = time.monotonic()
            time.sleep(0.1)

    def stop(self, *names: str) -> None:
        """End these children with SIGTERM, or with SIGKILL if they ignore it."""
        end(self._running(*names))

    def kill(self) -> None:
        """Kill the remaining children and all processes that they have started."""
        for _ in range(10):  # they may start others in the meantime
            own = [process for process, mark in marked_processes() if mark[MARK] == self._mark]
            if not own:
                break
            end(own, grace=0)
        for child in self._children.values():
            child.process.wait()
        self._children.clear()

    def _running(self, *names: str) -> "list[Process]":
        """Return these children without those that have ended, whose ids may have been reused."""
        import psutil

        children = (self._children[name] for name in names if name in self._children)
        return [
            psutil.Process(child.process.pid) for child in children if child.process.poll() is None
        ]


@dataclass(frozen=True)
class Child:
    """Process, with the file that receives its output."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    ends: bool

    def log_tail(self) -> str:
        """Return the last lines of its output."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        text = [line.rstrip() for line in lines if line.strip()]
        return "\n".join([f"the end of {self.log}:", *text[-_TAIL:]])


def end(processes: "Iterable[Process]", grace: float = _GRACE) -> "list[Process]":
    """End processes with SIGTERM; return those that had to be killed after `grace` seconds."""
    import psutil

    processes = list(processes)
    for process in processes:
        _unless_gone(process.terminate)
    _, alive = psutil.wait_procs(processes, grace)
    for process in alive:
        _unless_gone(process.kill)
    psutil.wait_procs(alive, 1)
    return alive


def marked_processes() -> "list[tuple[Process, dict[str, str]]]":
    """Return the running processes that any `Children` has started, with their environments.

    Processes inherit the mark from the child that starts them, and keep it when the child ends.
    """
    import psutil

    marked = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # ended in the meantime, or another user's
            environment = process.environ()
            if MARK in environment:
                marked.append((process, environment))
    return marked


def check_alone(variable: str, value: str) -> None:
    """Raise StackError if marked processes run with this value of an environment variable."""
    import psutil

    pids: dict[int, list[str]] = {}
    for process, environment in marked_processes():
        if environment.get(variable) == value:
            pids.setdefault(int(environment[MARK].split(".")[0]), []).append(str(process.pid))
    for owner, orphans in pids.items():
        if psutil.pid_exists(owner):
            raise StackError(
                f"process {owner} already runs these services with {variable}={value}",
                remedy=f"stop it first, or set another {variable}",
            )
        raise StackError(
            f"process {owner} was killed and left processes behind",
            remedy=f"end them with `kill {' '.join(orphans)}`, then try again",
        )


def check_ports(ports: Mapping[str, int]) -> None:
    """Raise StackError unless all ports are free and distinct.

    Args:
        ports: name of each server -> its port; the option `<name>_port` sets it.
    """
    taken: dict[int, str] = {}
    for name, port in ports.items():
        if port in taken:
            problem = f"{taken[port]} and {name} cannot both use port {port}"
        elif fault := _fault(port):
            problem = f"port {port} cannot be used for {name} ({fault})"
        else:
            taken[port] = name
            continue
        candidates = itertools.chain(range(port + 1, 65536), range(1024, 65536))
        free = next(number for number in candidates if number not in taken and not _fault(number))
        raise StackError(problem, options=[Option(f"{name}_port", free, "choose another port")])


def check_disk(folder: Path) -> None:
    """Raise ResourceError unless servers can write their databases and logs below a folder."""
    free = free_bytes(folder)
    if free < _LEAST_FREE:
        raise ResourceError(
            f"the disk of {folder} has {size_text(free)} left; the servers need"
            f" {size_text(_LEAST_FREE)}",
            remedy="remove files, for example with `neuroscope store prune`, or set"
            " NEUROSCOPE_HOME to a folder on another disk",
        )


def _fault(port: int) -> str:
    """Return why a port cannot be used, or an empty text if it can."""
    if port < 1:  # 0 stands for any port
        return "ports start at 1"
    with socket.socket() as test:
        test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
        try:
            test.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            return str(error)
    return ""


def _unless_gone(action: Callable[[], None]) -> None:
    """Call a function, ignoring the error if the process that it acts on has ended."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        action()
