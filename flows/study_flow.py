"""Studies as Prefect flows: their forms, names, hooks, links and artifacts."""

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import TerminationSignal
from prefect.flows import Flow
from prefect.runtime import flow_run as current_flow_run
from prefect.states import Cancelled, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.urls import url_for

from flows.artifacts import publish
from flows.executor import PrefectExecutor
from flows.prefect_server import start_embedded_server
from flows.signals import deferred
from neuroscope.errors import NeuroscopeError, Option
from neuroscope.experiment import Experiment
from neuroscope.labels import model_label
from neuroscope.progress import Progress, silent
from neuroscope.redaction import public_address
from neuroscope.reporting.recorded import RunStatus
from neuroscope.reporting.run_reader import FLOW_RUN_URL_TAG
from neuroscope.reporting.tracking import FLOW_RUN_TAG, Tracker
from neuroscope.studies.study import Results, study_of

S = TypeVar("S")

_MOST_NAMED = 3  # models in the name of a flow run


def close_runs(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Close MLflow runs that a failed, cancelled or killed flow left open."""
    status: RunStatus = "FAILED" if state.is_failed() else "KILLED"
    reason = state.message or f"the flow run is {state.name.lower() if state.name else 'over'}"
    Tracker.open().close_runs(FLOW_RUN_TAG, str(flow_run.id), status, reason)


FLOW_OPTIONS: Any = {
    # one step at a time, so that memory holds one model only
    "task_runner": ThreadPoolTaskRunner(max_workers=1),
    "on_failure": [close_runs],
    "on_cancellation": [close_runs],
    "on_crashed": [close_runs],
}
"""Options of every flow that runs a study."""


def study_form(experiment_of: Callable[..., Experiment]) -> Flow[..., Any]:
    """Return the flow of a study, whose form has the parameters of a function.

    Args:
        experiment_of: function that returns the experiment; its name is that of the flow, and its
            docstring describes the fields.
    """
    return form_flow(experiment_of, run_study, run_name)


def form_flow(
    settings_of: Callable[..., S], work: Callable[[S], Any], name_of: Callable[[S], str]
) -> Flow[..., Any]:
    """Return a flow whose form has the parameters of a function.

    Args:
        settings_of: function that returns the settings of the work; its name is that of the flow,
            and its docstring describes the fields.
        work: function that does the work within the flow run.
        name_of: function that returns the name of the flow run.
    """

    def name() -> str:
        try:
            return name_of(settings_of(**current_flow_run.parameters))
        except NeuroscopeError:  # the flow reports it
            return settings_of.__name__

    @flow(name=settings_of.__name__, flow_run_name=name, **FLOW_OPTIONS)
    @functools.wraps(settings_of)
    def run(*args: Any, **kwargs: Any) -> State[Any] | None:
        try:
            with _cancellation_reported():
                work(settings_of(*args, **kwargs))
        except NeuroscopeError as error:
            return _failed(error.on(form_spelling(settings_of)))
        return None

    return run


def form_spelling(form: Callable[..., Any]) -> Callable[[Option], str | None]:
    """Return a function that spells settings as fields of a form, such as `truncate = True`.

    It returns None for settings that the form lacks.
    """
    fields = inspect.signature(form).parameters
    return lambda option: f"{option.name} = {option.value}" if option.name in fields else None


def run_as_flow(experiment: Experiment, file: Path, progress: Progress = silent) -> Results[Any]:
    """Run an experiment as a Prefect flow in this process.

    The flow's only parameter is the path of the file: Prefect refuses parameters of more than
    512 KB, which inline prompts may exceed.

    Raises:
        NeuroscopeError: as in `run_study`.
    """

    @flow(name="experiment", flow_run_name=lambda: run_name(experiment), **FLOW_OPTIONS)
    def run(file: str) -> Results[Any] | State[Any]:
        try:
            with deferred():
                return run_study(experiment, progress)
        except NeuroscopeError as error:
            return _failed(error)

    start_embedded_server()
    return cast(Results[Any], run(str(file.absolute())))


def run_study(experiment: Experiment, progress: Progress = silent) -> Results[Any]:
    """Run a study within a flow run: its steps become task runs, its results artifacts.

    Raises:
        NeuroscopeError: the study failed; the subclass and the message say why.
    """
    study = study_of(experiment.kind)
    tracker = Tracker.open(flow_tags())
    with PrefectExecutor() as executor:
        results = study.run(experiment, tracker, executor, progress)
        publish(study, experiment, results, tracker)
    return results


def run_name(experiment: Experiment) -> str:
    """Return the name of the flow run of an experiment: its models and its own name."""
    models = [model_label(model) for model in getattr(experiment, "models", [])]
    named = ", ".join(models) if len(models) <= _MOST_NAMED else f"{len(models)} models"
    return f"{named} {experiment.name}".strip()


@contextlib.contextmanager
def _cancellation_reported() -> Iterator[None]:
    """Report at once that the flow run is cancelled, if that is why the block is interrupted.

    Otherwise the worker reports it up to ten seconds later: every three seconds it checks whether
    the process has ended, and then it runs the hooks in a new process.
    """
    try:
        yield
    except TerminationSignal:
        id = UUID(str(current_flow_run.get_id()))
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(id).state
            if state is not None and state.is_cancelling():
                cancelled: State[Any] = Cancelled(message="Flow run was cancelled.")
                client.set_flow_run_state(id, cancelled, force=True)
        raise


def _failed(error: NeuroscopeError) -> State[Any]:
    """Return a failed state with the message of an error, which is logged without a traceback."""
    get_run_logger().error(str(error))
    return Failed(message=str(error), data=error)


def _lacks_known_error(record: logging.LogRecord) -> bool:
    """Return whether a record has no NeuroscopeError; Prefect logs such an error once more."""
    return record.exc_info is None or not isinstance(record.exc_info[1], NeuroscopeError)


logging.getLogger("prefect.flow_runs").addFilter(_lacks_known_error)


def flow_tags() -> dict[str, str]:
    """Return the tags that link the MLflow runs of the current flow run to it."""
    id = str(current_flow_run.get_id())
    tags = {FLOW_RUN_TAG: id}
    if address := url_for("flow-run", id):
        tags[FLOW_RUN_URL_TAG] = public_address(address)
    return tags
