"""What Ctrl-C, SIGTERM and the end of the terminal do to a command; the same for all commands.

Signals reach the process as a whole, so this module keeps those that have arrived.
"""

import contextlib
import contextvars
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any, NoReturn

from neuroscope.progress import Progress

_Handler = Callable[[int, FrameType | None], None]

_POLL = 0.1  # seconds between two checks while waiting
_received: list[int] = []
_active = False


class Interrupted(KeyboardInterrupt):
    """A signal ends the work of a command."""


@contextlib.contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """End a command cleanly on Ctrl-C, SIGTERM or the end of the terminal.

    >>> @interruptible("unfinished runs are marked as killed")
    ... def run(file: Path) -> None:
    ...     experiment = load_experiment(file)
    ...     with deferred():
    ...         run_comparison(experiment, Tracker.open(), progress=watched(progress))

    Each signal raises `Interrupted` where the main thread is, except within `deferred`. The command
    then ends with exit code 128 + number of the first signal. The processes that it has started are
    ended too, and threads that still run a step are not waited for.

    Args:
        kept: what remains of the work, for the message.
    """
    global _active
    _received.clear()
    _active = True
    try:
        with _handling(_raise):
            yield
    except Exception:
        raise  # it has a message of its own
    except BaseException:  # Interrupted, or what Prefect raises at SIGTERM
        if not _received:
            raise
    finally:
        _active = False
    if _received:
        with contextlib.suppress(OSError):  # the reader of a pipe may be gone
            sys.stdout.flush()
        _leave(f"interrupted; {kept}")


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let the first signal wait until the work calls `check`; the second ends the process.

    An exception in the middle of a write to a database would leave it locked for the rest of the
    process, and Python discards one that is raised while it finalizes an object. `check` is called
    at each progress report that is `watched`, while waiting for an `Awaited` result, and at the end
    of the block. Runs that a second signal leaves open are closed at the next start.

    Outside of `interruptible`, or in another thread, this has no effect. Within a Prefect flow it
    also replaces Prefect's handler of SIGTERM, which raises an exception anywhere.
    """
    if not _active or threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handling(_defer):
        yield
    check()


def check() -> None:
    """Raise Interrupted if a signal has arrived."""
    if _received:
        raise Interrupted


def watched(progress: Progress) -> Progress:
    """Return a progress report that calls `check` first."""

    def report(task: str, done: int, total: int) -> None:
        check()
        progress(task, done, total)

    return report


class Awaited:
    """The result of a step that runs elsewhere; a signal ends the wait for it.

    >>> Awaited(executor.submit(sum, [1, 2])).result()
    3
    """

    def __init__(self, future: Any):
        """Take any future that has `add_done_callback` and `result`, such as Prefect's."""
        self._future = future

    def result(self) -> Any:
        """Return the result, or raise the error of the step or Interrupted."""
        done = threading.Event()
        self._future.add_done_callback(lambda _: done.set())
        while not done.wait(_POLL):
            check()
        return self._future.result()


def in_thread(function: Callable[[], Any]) -> "Future[Any]":
    """Call a function in a thread of its own, which does not keep an interrupted process alive."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True).start()
    return future


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Keep Ctrl-C and the end of the terminal from the processes that are started in the block.

    A terminal sends both signals to all processes of a command, but the command itself decides when
    the others end. A process inherits the signals that are blocked in the thread that starts it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _handling(handler: _Handler) -> Iterator[None]:
    """Install a handler; also of Ctrl-C, which a program started in the background ignores."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(number)
    raise Interrupted


def _defer(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) > 1:
        _leave("interrupted again; open MLflow runs are closed at the next start")
    _write("interrupted; ending after the current step, or at once if interrupted again")


def _leave(message: str) -> NoReturn:
    """End this process and those that it has started."""
    import psutil

    _write(message)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    os._exit(128 + _received[0])


def _write(message: str) -> None:
    """Write a line to standard error; a signal handler may not `print`."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, f"{message}\n".encode())
