"""Runs the steps of a study as task runs of a Prefect flow."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from flows.signals import Awaited, in_thread
from neuroscope.errors import NeuroscopeError
from neuroscope.studies.steps import Step


class PrefectExecutor(Executor):
    """Submits each step as a task run of the current flow, whose task runner decides where it runs.

    >>> @flow
    ... def add() -> int:
    ...     return PrefectExecutor().submit(sum, [1, 2]).result()

    A step that fails is tried once more, unless its error is one that the user must act on.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submit a step; the future that is returned has only `result`."""
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        name = fn.name if isinstance(fn, Step) else getattr(fn, "__name__", "step")
        step = task(
            name=name.split()[0],
            task_run_name=name.replace("{", "{{").replace("}", "}}"),
            retries=1,
            retry_condition_fn=_may_pass_next_time,
            cache_policy=NO_CACHE,  # what is worth caching is in the activation store
        )(lambda: _result_of(lambda: fn(*args, **kwargs)))
        return Awaited(step.submit())


def _may_pass_next_time(task: Any, task_run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    return not isinstance(error, NeuroscopeError)


def _result_of(step: Callable[[], Any]) -> Any:
    """Call a step so that a signal ends the wait for it, which may take minutes.

    Prefect's task runner waits for its own threads, but not for the one that is started here.
    """
    return Awaited(in_thread(step)).result()
