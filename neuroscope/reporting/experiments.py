"""MLflow experiments, each of which holds the runs of one kind of study."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from neuroscope.errors import TrackingError
from neuroscope.reporting.mlflow_client import open_client
from neuroscope.reporting.mlflow_pages import runs_page
from neuroscope.reporting.tracking_errors import mlflow_errors
from neuroscope.reporting.tracking_server import artifact_location, is_server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment


def experiment_name(kind: str) -> str:
    """Return the name of the experiment for a kind of study."""
    return f"neuroscope/{kind}"


def all_experiment_ids(client: "MlflowClient") -> list[str]:
    """Return the ids of the experiments for all kinds of study."""
    pattern = experiment_name("%")
    experiments = client.search_experiments(filter_string=f"name LIKE '{pattern}'")
    return [str(experiment.experiment_id) for experiment in experiments]


def find_experiment_id(client: "MlflowClient", kind: str) -> str | None:
    """Return the id of the experiment for a kind of study; None if it is missing or deleted."""
    experiment = client.get_experiment_by_name(experiment_name(kind))
    if experiment is None or experiment.lifecycle_stage == "deleted":
        return None
    return str(experiment.experiment_id)


def ensure_experiment_id(client: "MlflowClient", uri: str, kind: str) -> str:
    """Return the id of the experiment for a kind of study; create it if it does not exist.

    Args:
        client: client of the server or database.
        uri: address of the server or database.
        kind: kind of study, such as `compare`.

    Raises:
        TrackingError: the experiment is deleted, or only a server can write its files.
    """
    from mlflow.exceptions import MlflowException

    name = experiment_name(kind)
    location = None if is_server(uri) else artifact_location(kind)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, location))
        except MlflowException:  # another process has created it meanwhile
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    _check(experiment, embedded=location is not None)
    return str(experiment.experiment_id)


def runs_pages(server: str, uri: str, kinds: Iterable[str]) -> dict[str, str]:
    """Return the address of the table of runs of each kind of study.

    Missing experiments are created, because an address contains the id of an experiment. Deleted
    ones are left out.

    Args:
        server: address of the MLflow server, for a browser.
        uri: address of that server or of its database, with which the experiments are found.
        kinds: kinds of study, such as `compare`.

    Raises:
        TrackingError: MLflow cannot be reached or refuses a request.
    """
    client = open_client(uri)
    pages = {}
    with mlflow_errors(uri):
        for kind in kinds:
            experiment = client.get_experiment_by_name(experiment_name(kind))
            if experiment is None:
                pages[kind] = runs_page(server, ensure_experiment_id(client, uri, kind))
            elif experiment.lifecycle_stage != "deleted":
                pages[kind] = runs_page(server, experiment.experiment_id)
    return pages


def _check(experiment: "Experiment", *, embedded: bool) -> None:
    """Raise TrackingError unless runs can be recorded in an experiment.

    Args:
        experiment: experiment of MLflow.
        embedded: whether the embedded database is used, not a server.
    """
    name, id = experiment.name, experiment.experiment_id
    if experiment.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the MLflow experiment '{name}' is deleted",
            remedy=f"restore it with `mlflow experiments restore --experiment-id {id}`",
        )
    if embedded and experiment.artifact_location.startswith("mlflow-artifacts:"):
        raise TrackingError(
            f"the MLflow experiment '{name}' keeps its files behind a server",
            remedy="start that server and set MLFLOW_TRACKING_URI to its address",
        )
