"""Handling of Ctrl-C, SIGTERM and the end of the terminal, the same for all commands.

Signals reach the process as a whole, so this module records those that have arrived.
"""

import contextlib
import contextvars
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any, NoReturn

from flows.output import results_only
from neuroscope.errors import NeuroscopeError
from neuroscope.progress import Progress

_Handler = Callable[[int, FrameType | None], None]

_POLL = 0.1  # seconds between two checks while waiting
_received: list[int] = []  # numbers of the signals that have arrived
_active = False  # whether `interruptible` is in use


class Interrupted(KeyboardInterrupt):
    """Exception that ends the work of a command after a signal."""


@contextlib.contextmanager
def interruptible(kept: str | Callable[[], str]) -> Iterator[None]:
    """End a command cleanly on Ctrl-C, SIGTERM or the end of the terminal.

    >>> @interruptible("unfinished runs are marked as killed")
    ... def run(file: Path) -> None:
    ...     experiment = load_experiment(file)
    ...     with deferred():
    ...         run_comparison(experiment, Tracker.open(), progress=watched(progress))

    Each signal raises `Interrupted` in the main thread, except within `deferred`. The command then
    ends with exit code 128 + number of the first signal. It ends the processes that it has started,
    and does not wait for threads that still run a step.

    Args:
        kept: statement on what remains of the work, for the message, or a function that returns it.
    """
    global _active
    _received.clear()
    _active = True
    with _handling(_defer):  # while the command ends, which takes a moment
        try:
            with _handling(_raise), results_only():
                yield
        except NeuroscopeError:
            raise  # it is reported with its own message
        except BaseException:
            # Interrupted, what Prefect raises at SIGTERM, or what a library made of them: an import
            # that is interrupted can fail with a SyntaxError
            if not _received:
                raise
        finally:
            _active = False
        if _received:
            _leave(f"interrupted; {kept if isinstance(kept, str) else kept()}")


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Defer the first signal until the work calls `check`; the second ends the process.

    An exception in the middle of a write to a database would leave it locked for the rest of the
    process, and Python discards an exception that is raised while it finalizes an object. `check`
    is called by `watched` progress reports, while waiting for an `Awaited` result, and at the end
    of the block. Runs that a second signal leaves open are closed at the next start.

    Outside `interruptible`, or in another thread, this has no effect. Within a Prefect flow it also
    replaces Prefect's handler of SIGTERM, which raises an exception at any point.
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
    """Return a progress callback that calls `check` before it reports."""

    def report(task: str, done: int, total: int) -> None:
        check()
        progress(task, done, total)

    return report


class Awaited:
    """Result of a step that runs elsewhere; a signal ends the wait for it.

    >>> Awaited(executor.submit(sum, [1, 2])).result()
    3
    """

    def __init__(self, future: Any):
        """Wrap a future that has `add_done_callback` and `result`, such as Prefect's."""
        self._future = future

    def result(self) -> Any:
        """Return the result, or raise the error of the step or Interrupted."""
        done = threading.Event()
        self._future.add_done_callback(lambda _: done.set())
        while not done.wait(_POLL):
            check()
        return self._future.result()


def in_thread(function: Callable[[], Any]) -> "Future[Any]":
    """Call a function in its own thread, which does not keep an interrupted process alive."""
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
    """Shield the processes that are started in the block from Ctrl-C and the end of the terminal.

    A terminal sends both signals to all processes of a command, but the command itself decides when
    the others end. A process inherits the blocked signals of the thread that starts it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _handling(handler: _Handler) -> Iterator[None]:
    """Install a handler of signals, even of Ctrl-C, which background programs ignore."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored under nohup
        numbers.append(signal.SIGHUP)
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former_handler in former.items():
            signal.signal(number, former_handler)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    """Handle a signal by raising Interrupted."""
    _received.append(number)
    raise Interrupted


def _defer(number: int, frame: FrameType | None) -> None:
    """Handle the first signal by recording it, and the second by ending the process."""
    _received.append(number)
    if len(_received) > 1:
        _leave("interrupted again; open MLflow runs are closed at the next start")
    _write("interrupted; ending after the current step, or at once if interrupted again")


def _leave(message: str) -> NoReturn:
    """End this process and the processes that it has started."""
    import psutil

    _write(message)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    os._exit(128 + _received[0])


def _write(message: str) -> None:
    """Write a line to standard error; a signal handler must not `print`."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, f"{message}\n".encode())
