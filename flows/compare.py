"""The flows that compare prompts: from the form in the Prefect UI, and from an experiment file."""

from typing import Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.runtime import flow_run as current_flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.urls import url_for
from pydantic import BaseModel, ConfigDict, Field

from flows.executor import PrefectExecutor
from flows.prefect_pages import current_page
from flows.prefect_server import start_embedded_server
from flows.signals import deferred
from neuroscope.experiment import Experiment, compare_experiment
from neuroscope.progress import Progress, silent
from neuroscope.reporting.report import to_markdown
from neuroscope.reporting.tracking import FLOW_RUN_TAG, FLOW_RUN_URL_TAG, Tracker
from neuroscope.results import Comparison
from neuroscope.studies.compare import run_comparison
from neuroscope.studies.compare_outputs import focus_layers


class Template(BaseModel):
    """One sentence with a gap, and the words that fill it."""

    model_config = ConfigDict(title="Template with fills", extra="forbid", frozen=True)
    template: str = Field(
        default="The engineer is a {}.",
        title="Template",
        description="A sentence with {} where the fills go.",
    )
    fills: list[str] = Field(
        default=["man", "woman", "transgender"],
        min_length=2,
        title="Fills",
        description="Two words or more: each makes one prompt.",
    )


class Prompts(BaseModel):
    """Whole prompts."""

    model_config = ConfigDict(title="List of prompts", extra="forbid", frozen=True)
    texts: list[str] = Field(
        default=["The cat is on the mat", "The dog is on the mat"],
        min_length=2,
        title="Prompts",
        description="Two prompts or more.",
    )


def close_runs(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Ends MLflow runs that a failed, cancelled or killed flow left open."""
    status = "FAILED" if state.is_failed() else "KILLED"
    Tracker.open().close_runs(FLOW_RUN_TAG, str(flow_run.id), status)


_OPTIONS: Any = {
    # one step at a time, or memory would have to hold several models
    "task_runner": ThreadPoolTaskRunner(max_workers=1),
    "on_failure": [close_runs],
    "on_cancellation": [close_runs],
    "on_crashed": [close_runs],
}


@flow(name="compare", **_OPTIONS)
def compare(
    model: str = "minilm",
    prompts: Template | Prompts = Template(),  # noqa: B008 - frozen
    layers: str = "all",
    site: Literal["resid_pre", "attn_out", "mlp_act", "mlp_out", "resid_post"] = "resid_post",
    note: str = "",
) -> None:
    """Compares what the neurons do for two or more prompts, at every layer.

    Args:
        model: A built-in name (minilm), a folder on the worker's machine, or a Hugging Face id.
        prompts: What to compare: a template with fills, or a list of prompts.
        layers: all, one layer (5; they count from 0), a range (2-5), a list (0,2,5), or -1 for
            the last.
        site: Where in each layer to look. mlp_act are the MLP's neurons, resid_post is the
            residual stream leaving the layer.
        note: Kept with the results, as the description of the MLflow run.
    """
    group = prompts.model_dump()
    experiment = compare_experiment(model, group, site=site, layers=layers, note=note)
    _compare(experiment, silent)


def run_as_flow(experiment: Experiment, progress: Progress = silent) -> list[Comparison]:
    """Runs an experiment as a Prefect flow in this process.

    Raises:
        NeuroscopeError: as `run_comparison`.
    """

    @flow(name="experiment", flow_run_name=experiment.name, **_OPTIONS)
    def run(experiment: Experiment) -> list[Comparison]:
        with deferred():
            return _compare(experiment, progress)

    start_embedded_server()
    return run(experiment)


def _compare(experiment: Experiment, progress: Progress) -> list[Comparison]:
    """The study, in a flow run: its steps become task runs, its table an artifact."""
    id = str(current_flow_run.get_id())
    tags = {FLOW_RUN_TAG: id}
    if address := url_for("flow-run", id):
        tags[FLOW_RUN_URL_TAG] = current_page(address)
    tracker = Tracker.open(tags)
    found = run_comparison(experiment, tracker, PrefectExecutor(), progress=progress)
    tables = [
        to_markdown(one, layer, tracker.links(one.run_id))
        for one in found
        for layer in focus_layers(experiment, one.layers)[:1]
        if one.run_id
    ]
    create_markdown_artifact(
        "\n\n".join(tables), key="comparison", description=f"Comparison of {experiment.name}"
    )
    return found
