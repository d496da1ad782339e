"""Addresses of pages in MLflow's interface.

An address without a server, which begins with `#`, leads from one page to another. Without
`workflowType`, a browser that opens MLflow for the first time shows traces, not runs; no tag of an
experiment changes this.
"""

from urllib.parse import quote, urlencode

_TRAINING = {"workflowType": "machine_learning"}


def experiments_page(server: str) -> str:
    """Return the address of the list of experiments."""
    return _page(server, "experiments")


def run_page(server: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page."""
    return _page(server, f"experiments/{experiment_id}/runs/{run_id}")


def report_page(server: str, experiment_id: str, run_id: str, artifact: str) -> str:
    """Return the address of a run's page that shows one of its artifacts, such as `report.html`."""
    return _page(server, f"experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(artifact)}")


def runs_page(server: str, experiment_id: str) -> str:
    """Return the address of an experiment's runs, with charts; the table is one click away."""
    return _page(server, f"experiments/{experiment_id}/runs", {"compareRunsMode": "CHART"})


def charts_page(server: str, experiment_id: str, tag: str, value: str) -> str:
    """Return the address of charts that overlay all finished runs that have a tag.

    Args:
        server: address of the MLflow server.
        experiment_id: id of the MLflow experiment.
        tag: name of the tag.
        value: value of the tag, without quotation marks.
    """
    filter = f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'"
    return _page(
        server,
        f"experiments/{experiment_id}/runs",
        {"compareRunsMode": "CHART", "searchFilter": filter},
    )


def _page(server: str, path: str, query: dict[str, str] | None = None) -> str:
    root = f"{server.rstrip('/')}/" if server else ""
    return f"{root}#/{path}?{urlencode(_TRAINING | (query or {}), quote_via=quote)}"


def run_links(
    server: str, experiment_id: str, run_id: str, prompts_tag: str, digest: str
) -> dict[str, str]:
    """Return the addresses of a run, and of the charts of all runs with its prompts, by name.

    Args:
        server: address of the server.
        experiment_id: id of the run's experiment.
        run_id: id of the run.
        prompts_tag: name of the tag with the digest of the prompts.
        digest: digest of the prompts; empty if it is unknown.
    """
    links = {"MLflow run": run_page(server, experiment_id, run_id)}
    if digest:
        charts = charts_page(server, experiment_id, prompts_tag, digest)
        links["all runs with these prompts"] = charts
    return links
