"""Executor that runs the steps that load a model in a second process."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from typing import Any

from flows.signals import Awaited, shielded
from neuroscope.errors import NeuroscopeError, Option, ResourceError
from neuroscope.studies.steps import InlineExecutor, Step


class SecondProcessExecutor(Executor):
    """Executor that runs steps that load a model in a second process, and the others in this one.

    >>> with SecondProcessExecutor() as executor:
    ...     run_comparison(experiment, tracker, executor)

    The second process starts on creation. It imports torch and transformers while this process
    imports MLflow; each import takes seconds, most of the time of a short command.

    Raises:
        ResourceError: in `result` of a step whose process was killed, for example by the kernel
            when memory ran out.
    """

    def __init__(self) -> None:
        self._inline = InlineExecutor()
        self._context = _Context()
        self._pool = ProcessPoolExecutor(1, mp_context=self._context, initializer=_prepare)
        with shielded():
            self._pool.submit(os.getpid)  # starts the process now

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submit a step; the returned future has only the method `result`."""
        if isinstance(fn, Step) and fn.loads_model:
            return _ModelStep(self._pool, self._context.processes, fn)
        return self._inline.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the second process, even in the middle of a step."""
        for process in self._context.processes:
            process.terminate()
        # The thread of the pool then ends at once. If it were still closing its pipe when the
        # program exits, Python would sometimes write to that pipe and print a traceback.
        self._pool.shutdown(wait=True, cancel_futures=True)


class _ModelStep:
    """Step in the second process."""

    def __init__(self, pool: ProcessPoolExecutor, processes: list[SpawnProcess], step: Step):
        self._processes = processes
        try:
            self._future: Future[Any] = pool.submit(step)
        except BrokenProcessPool as error:  # the process ended during an earlier step
            self._future = Future()
            self._future.set_exception(error)

    def result(self) -> Any:
        """Return the step's result, or raise its error, ResourceError or Interrupted."""
        try:
            return Awaited(self._future).result()
        except BrokenProcessPool as error:
            raise self._explanation() from error

    def _explanation(self) -> NeuroscopeError:
        """Return the error that says why the process ended."""
        (process,) = self._processes
        process.join()
        deadline = time.monotonic() + 5
        while process.exitcode is None and time.monotonic() < deadline:
            time.sleep(0.01)  # the executor's own thread waits, too, and notes the code a bit later
        if process.exitcode != -signal.SIGKILL:
            return NeuroscopeError(
                f"the process that runs the model ended with exit code {process.exitcode}",
                remedy="see the messages above",
            )
        return ResourceError(
            "the process that runs the model was killed, most likely because memory ran out",
            options=[Option("memory", "stream", "leave the weights on disk")],
            remedy="free some memory",
        )


class _Context(SpawnContext):
    """Context that records the processes it starts, so that exactly these can be ended."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]
        process = SpawnProcess(*args, **kwargs)
        self.processes.append(process)
        return process


def _prepare() -> None:
    """Import the libraries that take seconds; end this process when the first one ends."""
    first = multiprocessing.parent_process()
    if first is not None:
        threading.Thread(target=_end_with, args=(first,), daemon=True).start()
    # Garbage collection among thousands of modules finds nothing. `compare` takes 4.9 s if it is
    # not disabled, 4.7 s if the modules are not frozen, and 4.1 s with both.
    gc.disable()
    import transformers.modeling_layers  # noqa: F401

    gc.freeze()
    gc.enable()


def _end_with(process: BaseProcess) -> None:
    """End this process when another one ends."""
    process.join()
    os._exit(1)
