"""Who runs the steps of a study: Prefect, or this process with a second one for the model."""

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Any

from neuroscope.errors import NeuroscopeError
from neuroscope.studies.steps import InlineExecutor, Step


class PrefectExecutor(Executor):
    """Makes each step a task run of the flow it is used in; the flow's task runner says where.

    A step that fails is tried once more, unless the error is one the user must act on.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        name = fn.name if isinstance(fn, Step) else getattr(fn, "__name__", "step")
        made = task(
            name=name.split()[0],
            task_run_name=name.replace("{", "{{").replace("}", "}}"),
            retries=1,
            retry_condition_fn=_may_pass_next_time,
            cache_policy=NO_CACHE,  # what is worth keeping is kept in the activation store
        )(lambda: fn(*args, **kwargs))
        return made.submit()


def _may_pass_next_time(task: Any, task_run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    return not isinstance(error, NeuroscopeError)


class SecondProcessExecutor(Executor):
    """Runs steps that load a model in a second process, the others at once in this one.

    The second process starts when this is made, and imports torch and transformers while this
    one imports MLflow; both take seconds, and a quick command waits for little else.
    """

    def __init__(self) -> None:
        self._inline = InlineExecutor()
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare)
        self._pool.submit(os.getpid)  # starts the process now

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        if isinstance(fn, Step) and fn.loads_model:
            return self._pool.submit(fn, *args, **kwargs)
        return self._inline.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the second process, even in the middle of what it does."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


def _prepare() -> None:
    """In the second process: lives no longer than the first, and imports what takes seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the first one decides
    first = multiprocessing.parent_process()
    if first is not None:
        threading.Thread(target=_end_with, args=(first,), daemon=True).start()
    with no_collection():
        import transformers.modeling_layers  # noqa: F401


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Keeps the garbage collector from going over and over thousands of modules at import.

    It finds nothing there.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _end_with(process: BaseProcess) -> None:
    process.join()
    os._exit(1)
