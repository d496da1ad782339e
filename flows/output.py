"""Standard output and error of the command line.

Standard output belongs to the one document or table that a command prints. What libraries print
while a command works goes to standard error, and a stream that is closed or full does not decide
how a run ends.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from neuroscope.errors import NeuroscopeError

_BROKEN_PIPE = 141  # exit code of a shell for a program that is ended by SIGPIPE
_results: TextIO | None = None  # stream for results while `results_only` is in use


class OutputError(NeuroscopeError):
    """Error about standard output that cannot be written."""

    exit_code = 74


class _Results(io.TextIOWrapper):
    """Stream for results: raises OutputError if they cannot be written.

    If the reader of a pipe is gone, the program ends without a message, as other programs do.
    """

    def write(self, text: str) -> int:
        with _translated(self):
            return super().write(text)

    def flush(self) -> None:
        with _translated(self):
            super().flush()


class _Messages(io.TextIOWrapper):
    """Stream for messages: those that cannot be written are lost."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().flush()


def guard_streams() -> None:
    """Replace the standard streams of this process by streams that fail in a defined way.

    Characters that the encoding of a terminal lacks are replaced.
    """
    closed = _open_closed_descriptors()
    if 1 in closed:
        os.close(1)
        os.open(os.devnull, os.O_RDONLY)  # so that writing fails
    if _is_on(sys.stdout, 1):
        sys.stdout = _wrap(_Results, 1, sys.stdout)
    if _is_on(sys.stderr, 2):
        sys.stderr = _wrap(_Messages, 2, sys.stderr)


def result_stream() -> TextIO:
    """Return the stream for results."""
    return _results or sys.stdout


@contextlib.contextmanager
def results_only() -> Iterator[None]:
    """Reserve standard output for results: whatever else is printed goes to standard error.

    This also holds for libraries that are not written in Python, and for the processes that are
    started in the block.
    """
    global _results
    if _results is not None:
        yield
        return
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        with _moved(stdout) as _results:
            yield
    finally:
        _results, sys.stdout = None, stdout


@contextlib.contextmanager
def _moved(stdout: TextIO) -> Iterator[TextIO]:
    """Yield a stream to what descriptor 1 is, which is standard error meanwhile."""
    if not isinstance(stdout, _Results):  # a test that captures the output
        yield stdout
        return
    stdout.flush()
    copy = os.dup(1)
    try:
        os.dup2(2, 1)
        with _wrap(_Results, copy, stdout) as stream:
            yield stream
    finally:
        os.dup2(copy, 1)
        os.close(copy)


def _is_on(stream: TextIO | None, descriptor: int) -> bool:
    """Return whether a stream writes to a descriptor, or was closed when the program started."""
    try:
        return stream is None or stream.fileno() == descriptor
    except (OSError, ValueError):  # in memory
        return False


def _open_closed_descriptors() -> set[int]:
    """Open the null device in place of closed standard streams; return their descriptors.

    Otherwise the next file that is opened, such as a database, would take their place.
    """
    closed = set()
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            closed.add(descriptor)
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    return closed


def _wrap(kind: type[Any], descriptor: int, former: TextIO | None) -> Any:
    """Return a stream on a descriptor, with the encoding of the stream that it replaces."""
    if former is not None:
        with contextlib.suppress(OSError, NeuroscopeError):
            former.flush()
    return kind(
        open(descriptor, "wb", closefd=False),
        encoding=getattr(former, "encoding", None) or "utf-8",
        errors="replace",
        line_buffering=os.isatty(descriptor),
    )


@contextlib.contextmanager
def _translated(stream: Any) -> Iterator[None]:
    """Translate the errors of writing results, after which the stream leads nowhere."""
    try:
        yield
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # what is still buffered would fail again at the end
        os.close(nowhere)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(_BROKEN_PIPE) from None
        raise OutputError(
            f"the result cannot be written to standard output ({error.strerror or error})",
            remedy="write it to a file, or free disk space",
        ) from error
