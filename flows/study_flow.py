"""Studies as Prefect flows: their options, hooks, tags, links and artifact."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.runtime import flow_run as current_flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.urls import url_for

from flows.executor import PrefectExecutor
from flows.prefect_pages import current_page
from flows.prefect_server import start_embedded_server
from flows.signals import deferred
from neuroscope.errors import NeuroscopeError
from neuroscope.experiment import Experiment
from neuroscope.progress import Progress, silent
from neuroscope.reporting.tables import to_markdown
from neuroscope.reporting.tracking import FLOW_RUN_TAG, FLOW_RUN_URL_TAG, Tracker
from neuroscope.studies.study import Result, Results, Study, study_of


def close_runs(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Close MLflow runs that a failed, cancelled or killed flow left open."""
    Tracker.open().close_runs(
        FLOW_RUN_TAG, str(flow_run.id), "FAILED" if state.is_failed() else "KILLED"
    )


FLOW_OPTIONS: Any = {
    # one step at a time, so that memory holds one model only
    "task_runner": ThreadPoolTaskRunner(max_workers=1),
    "on_failure": [close_runs],
    "on_cancellation": [close_runs],
    "on_crashed": [close_runs],
}
"""Options of every flow that runs a study."""


def run_study(experiment: Experiment, progress: Progress = silent) -> Results[Any]:
    """Run a study within a flow run: its steps become task runs, its summary an artifact.

    Raises:
        NeuroscopeError: the study failed; the subclass and the message say why.
    """
    study = study_of(experiment.kind)
    tracker = Tracker.open(_flow_tags())
    results = study.run(experiment, tracker, PrefectExecutor(), progress)
    create_markdown_artifact(
        artifact_text(study, results, tracker),
        key=experiment.kind,
        description=f"{experiment.kind.capitalize()} {experiment.name}",
    )
    return results


def run_form(experiment: Experiment, form: Callable[..., Any]) -> None:
    """Run a study that was started from a form; errors name the fields of the form.

    Args:
        experiment: experiment that the form describes.
        form: function of the flow, whose parameters are the fields of the form.
    """
    fields = inspect.signature(form).parameters
    try:
        run_study(experiment)
    except NeuroscopeError as error:
        raise error.on(
            lambda option: f"{option.name} = {option.value}" if option.name in fields else None
        ) from error


def run_as_flow(experiment: Experiment, file: Path, progress: Progress = silent) -> Results[Any]:
    """Run an experiment as a Prefect flow in this process.

    The flow's only parameter is the path of the file: Prefect refuses parameters of more than
    512 KB, which inline prompts may exceed.

    Raises:
        NeuroscopeError: as in `run_study`.
    """

    @flow(name="experiment", flow_run_name=experiment.name, **FLOW_OPTIONS)
    def run(file: str) -> Results[Any]:
        with deferred():
            return run_study(experiment, progress)

    start_embedded_server()
    return run(str(file.absolute()))


def artifact_text(study: Study[Any, Any], results: Sequence[Result], tracker: Tracker) -> str:
    """Return the summary table of each result with its notes and links, as Markdown."""
    parts = []
    for result in results:
        parts.append(to_markdown(study.summary(result)))
        parts += [f"- {note}" for note in result.notes]
        if result.run_id:
            links = tracker.links(result.run_id)
            parts.append(" · ".join(f"[{name}]({address})" for name, address in links.items()))
    return "\n\n".join(part for part in parts if part)


def _flow_tags() -> dict[str, str]:
    """Return the tags that link the MLflow runs of the current flow run to it."""
    id = str(current_flow_run.get_id())
    tags = {FLOW_RUN_TAG: id}
    if address := url_for("flow-run", id):
        tags[FLOW_RUN_URL_TAG] = current_page(address)
    return tags
