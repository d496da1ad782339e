"""Python processes that are started, watched and ended together, each with a log file."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from neuroscope.errors import StackError

if TYPE_CHECKING:
    from psutil import Process

MARK = "NEUROSCOPE_UP"
"""In the environment of all that was started: `<id of the process that did>.<token>`."""
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
        self._mark = f"{os.getpid()}.{secrets.token_hex(8)}"
        self._environment = {**environment, MARK: self._mark, "PYTHONUNBUFFERED": "1"}
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

    def settle(self, name: str) -> None:
        """Waits, for a while, until nothing has run below a child for two seconds."""
        last = time.monotonic() + _GRACE
        quiet = time.monotonic()
        while time.monotonic() < min(last, quiet + 2):
            if self.below(name):
                quiet = time.monotonic()
            time.sleep(0.1)

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
            mine = [one for one, env in marked_processes() if env[MARK] == self._mark]
            if not mine:
                break
            end(mine, grace=0)
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
    psutil.wait_procs(left, 1)
    return left


def marked_processes() -> "list[tuple[Process, dict[str, str]]]":
    """What was started here or by any other `Children` and still runs, with its environment.

    The mark goes down to all that a child starts, and stays when its parent ends.
    """
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # ended meanwhile, or another user's
            environment = process.environ()
            if MARK in environment:
                found.append((process, environment))
    return found


def check_alone(variable: str, value: str) -> None:
    """Raises StackError where marked processes have this value in their environment."""
    import psutil

    pids: dict[int, list[str]] = {}
    for process, environment in marked_processes():
        if environment.get(variable) == value:
            pids.setdefault(int(environment[MARK].split(".")[0]), []).append(str(process.pid))
    for owner, left in pids.items():
        if psutil.pid_exists(owner):
            raise StackError(
                f"process {owner} already runs this with {variable}={value}: stop it first,"
                f" or set another {variable}"
            )
        raise StackError(
            f"process {owner} was killed and left others behind: end them with"
            f" `kill {' '.join(left)}`, then try again"
        )


def check_ports(ports: Mapping[str, int]) -> None:
    """Raises StackError unless all of them are free.

    Args:
        ports: option of the command line that sets the port -> port.
    """
    if len(set(ports.values())) < len(ports):
        raise StackError(f"{' and '.join(ports)} must differ")
    for option, port in ports.items():
        with socket.socket() as test:
            test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
            try:
                test.bind(("127.0.0.1", port))
            except (OSError, OverflowError) as error:
                raise StackError(
                    f"port {port} cannot be used ({error}): choose another with {option}"
                ) from error


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Lets SIGTERM and the end of the terminal act like Ctrl-C.

    Ctrl-C itself too, which a program started in the background would ignore, and with it all
    that it starts.
    """

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # not under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _quietly(action: Callable[[], None]) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        action()
