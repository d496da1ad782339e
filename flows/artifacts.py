"""Results of a study on the page of its flow run: artifacts, and links in the log."""

import base64
import contextlib
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from neuroscope.errors import TrackingError
from neuroscope.experiment import Experiment
from neuroscope.reporting.recorded import RecordedRun
from neuroscope.reporting.tables import plain_markdown, to_markdown
from neuroscope.reporting.tracking import FLOW_RUN_TAG, GROUP_TAG, Tracker
from neuroscope.studies.study import OVERVIEW_FIGURE, Findings, Result, Results, Study


def publish(
    study: Study[Any, Any], experiment: Experiment, results: Results[Any], tracker: Tracker
) -> None:
    """Create an artifact per MLflow run of the current flow run, and log the links to the runs.

    An artifact has the table, the main figure and the links. It has no key: Prefect would list the
    runs under one key as versions of the same result.
    """
    texts = {result.run_id: _summary(study, result) for result in results}
    if results.overview:
        texts[results.overview.run_id] = _differences(results.overview)
    figure = f"plots/{next(iter(study.figures(results[0]))).name}"
    for run in _recorded_runs(experiment, tracker):
        links = tracker.links(run.id)
        links.pop("Prefect flow run", None)
        link_text = " · ".join(f"[{name}]({address})" for name, address in links.items())
        create_markdown_artifact(
            "\n\n".join(filter(None, [texts[run.id], _figure(tracker, run.id, figure), link_text])),
            description=" · ".join(filter(None, [plain_markdown(run.name), link_text])),
        )
        for title, address in links.items():
            get_run_logger().info(f"{run.name}, {title}: {address}")


def _recorded_runs(experiment: Experiment, tracker: Tracker) -> list[RecordedRun]:
    """Return the MLflow runs of the current flow run, oldest first."""
    runs = tracker.find_runs(experiment.kind, {FLOW_RUN_TAG: str(flow_run.get_id())})
    # a flow run that Prefect retries also has the runs of its first attempt
    return [run for run in reversed(runs) if run.tags[GROUP_TAG] == runs[0].tags[GROUP_TAG]]


def _summary(study: Study[Any, Any], result: Result) -> str:
    """Return the summary table of a result with its notes, as Markdown."""
    notes = [f"- {plain_markdown(note)}" for note in result.notes]
    return "\n\n".join([to_markdown(study.summary(result)), *notes])


def _differences(findings: Findings) -> str:
    """Return what differs between models, as Markdown."""
    notes = [f"- {plain_markdown(note)}" for note in findings.notes]
    tables = map(to_markdown, findings.tables)
    return "\n\n".join([plain_markdown(findings.headline), *tables, *notes])


def _figure(tracker: Tracker, run_id: str, path: str) -> str:
    """Return the figure of a run, or else that of an overview, as Markdown; empty if none."""
    for figure in (path, OVERVIEW_FIGURE):
        with contextlib.suppress(TrackingError):
            image = base64.b64encode(tracker.artifact(run_id, figure).read_bytes()).decode()
            return f"![{figure}](data:image/png;base64,{image})"
    return ""
