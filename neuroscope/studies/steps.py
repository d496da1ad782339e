"""Steps of a study, run by a `concurrent.futures.Executor`.

The arguments and results of a step are paths and immutable values, never tensors or models, so that
it can run in this thread, in another process, or as a task of an orchestrator.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from neuroscope.progress import Progress, silent

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """Call with a name that identifies it, such as `compare minilm resid_post.2`."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    loads_model: bool = False

    def __call__(self) -> Any:
        return self.function(*self.arguments)


class InlineExecutor(Executor):
    """Executor that runs each step immediately, in the thread that submits it.

    >>> InlineExecutor().submit(sum, [1, 2]).result()
    3
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class Pending(Generic[T]):
    """Result of a step that may still be running."""

    name: str
    future: Any  # a Future[T], or its equivalent in an orchestrator, with a method result()


class Steps:
    """Steps of one study, submitted to an executor, with a report of how many are done.

    >>> steps = Steps(InlineExecutor(), total=1)
    >>> steps.wait(steps.submit("add", sum, [1, 2]))
    3
    """

    def __init__(self, executor: Executor, progress: Progress = silent, *, total: int):
        self._executor, self._progress = executor, progress
        self._total, self._done = total, 0

    def submit(
        self, name: str, function: Callable[..., T], *arguments: Any, loads_model: bool = False
    ) -> Pending[T]:
        """Submit a step.

        Args:
            name: name of the step.
            function: function to call.
            arguments: arguments of the call.
            loads_model: whether the step loads a model; some executors run such steps elsewhere.
        """
        self._progress(name, self._done, self._total)
        step = Step(name, function, arguments, loads_model)
        return Pending(name, self._executor.submit(step))

    def wait(self, pending: Pending[T]) -> T:
        """Return the result of a step, or raise its error."""
        self._progress(pending.name, self._done, self._total)
        result: T = pending.future.result()
        self._done += 1
        self._progress(pending.name, self._done, self._total)
        return result
