"""Executor that runs the steps of a study as task runs of a Prefect flow."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any

from flows.signals import Awaited, in_thread
from neuroscope.errors import NeuroscopeError
from neuroscope.studies.steps import Step


class PrefectExecutor(Executor):
    """Executor that submits each step as a task run of the current Prefect flow.

    The task runner of the flow decides where the step runs.

    >>> @flow
    ... def add() -> int:
    ...     with PrefectExecutor() as executor:
    ...         return executor.submit(sum, [1, 2]).result()

    A step that fails is retried once, unless its error is one that the user must act on. Such an
    error is the message of the task run's state, without a traceback.
    """

    def __init__(self) -> None:
        self._ended: Future[None] = Future()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submit a step; the returned future has only the method `result`."""
        from prefect import task
        from prefect.cache_policies import NO_CACHE
        from prefect.states import Cancelled, Failed

        def run() -> Any:
            if not (future := self._done_or_ended(lambda: fn(*args, **kwargs))):
                return Cancelled(message="The flow has ended.")
            try:
                return future.result()
            except NeuroscopeError as error:
                return Failed(message=str(error), data=error)

        name = fn.name if isinstance(fn, Step) else getattr(fn, "__name__", "step")
        step = task(
            name=name.split()[0],
            task_run_name=name.replace("{", "{{").replace("}", "}}"),
            retries=1,
            retry_condition_fn=_may_succeed_on_retry,
            cache_policy=NO_CACHE,  # what is worth caching is in the activation store
        )(run)
        return Awaited(step.submit())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the wait for steps that still run, because the flow ends without their results."""
        if not self._ended.done():
            self._ended.set_result(None)

    def _done_or_ended(self, step: Callable[[], Any]) -> "Future[Any] | None":
        """Run a step in a thread of its own; return None if `shutdown` is called before its end.

        A step may take minutes. Prefect's task runner waits for its own threads, but not for this
        one.
        """
        if self._ended.done():
            return None
        future = in_thread(step)
        wait([future, self._ended], return_when=FIRST_COMPLETED)
        return future if future.done() else None


def _may_succeed_on_retry(task: Any, task_run: Any, state: Any) -> bool:
    """Return whether a step has failed with an error that a retry may avoid."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, NeuroscopeError)
