"""Executor that runs the steps of a study as task runs of a Prefect flow."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from flows.signals import Awaited, in_thread
from neuroscope.errors import NeuroscopeError
from neuroscope.studies.steps import Step


class PrefectExecutor(Executor):
    """Executor that submits each step as a task run of the current Prefect flow.

    The task runner of the flow decides where the step runs.

    >>> @flow
    ... def add() -> int:
    ...     return PrefectExecutor().submit(sum, [1, 2]).result()

    A step that fails is retried once, unless its error is one that the user must act on.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submit a step; the returned future has only the method `result`."""
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        name = fn.name if isinstance(fn, Step) else getattr(fn, "__name__", "step")
        step = task(
            name=name.split()[0],
            task_run_name=name.replace("{", "{{").replace("}", "}}"),
            retries=1,
            retry_condition_fn=_may_succeed_on_retry,
            cache_policy=NO_CACHE,  # what is worth caching is in the activation store
        )(lambda: _result_of(lambda: fn(*args, **kwargs)))
        return Awaited(step.submit())


def _may_succeed_on_retry(task: Any, task_run: Any, state: Any) -> bool:
    """Return whether a step has failed with an error that a retry may avoid."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, NeuroscopeError)


def _result_of(step: Callable[[], Any]) -> Any:
    """Call a step in its own thread, so that a signal ends the wait for it.

    A step may take minutes. Prefect's task runner waits for its own threads, but not for this one.
    """
    return Awaited(in_thread(step)).result()
