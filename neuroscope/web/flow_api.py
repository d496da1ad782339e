"""Requests for flows: starting a study on a Prefect server, and following it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from neuroscope.errors import ExperimentError, StackError
from neuroscope.reporting.run_reader import RunReader
from neuroscope.reporting.tracking import FLOW_RUN_TAG
from neuroscope.studies.study import STUDIES
from neuroscope.web.schemas import REFUSALS
from neuroscope.web.settings import Settings

_MODEL_KEYS = ("models", "base", "candidate")
"""Parameters of flows that name models."""


class Deployment(BaseModel):
    """Flow that can be started."""

    name: str
    description: str
    page: str = Field(description="Prefect's form for it.")
    parameters: dict[str, Any] = Field(description="JSON schema of its parameters.")


class FlowState(BaseModel):
    """State of a flow run."""

    id: str
    name: str
    state: str = Field(description="Such as Scheduled, Running, Completed, Failed or Cancelled.")
    message: str
    final: bool = Field(description="Whether it has ended.")
    done: int = Field(description="Steps that are complete.")
    total: int = Field(description="Steps that have been submitted so far.")
    page: str = Field(description="Its page in Prefect.")


class FlowServer(Protocol):
    """Server that runs flows; every method raises StackError if it does not respond."""

    def deployments(self) -> Sequence[Deployment]:
        """Return the flows that can be started."""
        ...

    def start(self, name: str, parameters: Mapping[str, Any]) -> str:
        """Start a flow and return the id of its run; raise NeuroscopeError if it is refused."""
        ...

    def flow_state(self, id: str) -> FlowState:
        """Return the state of a flow run; raise NeuroscopeError if there is none."""
        ...

    def cancel(self, id: str) -> None:
        """Cancel a flow run."""
        ...


class FlowRequest(BaseModel):
    """Parameters of a flow."""

    model_config = ConfigDict(extra="forbid")
    parameters: dict[str, Any] = {}


class FlowResult(BaseModel):
    """Run in MLflow that a flow has recorded."""

    name: str
    address: str = Field(description="Its page; empty if no server shows it.")


class FlowRun(FlowState):
    """State of a flow run, with its results."""

    runs: list[FlowResult] = Field(description="What it has recorded in MLflow.")


def flow_routes(settings: Settings, server: FlowServer | None) -> APIRouter:
    """Return the routes; without a server, no flow is listed and none can be started."""
    routes = APIRouter(prefix="/api", tags=["flows"], responses=REFUSALS)

    def configured() -> FlowServer:
        if server is None:
            raise StackError(
                "no Prefect server is configured",
                remedy="run `neuroscope up`, or set PREFECT_API_URL, and start the interface again",
            )
        return server

    def offered() -> dict[str, Deployment]:
        """Return the flows by name; with a list of models, only those whose models are known."""
        known = {} if server is None else {own.name: own for own in server.deployments()}
        if not settings.models:
            return known
        return {name: own for name, own in known.items() if _model_keys(own)}

    @routes.get("/flows")
    def flows() -> list[Deployment]:
        """List the flows that can be started; empty without a Prefect server."""
        return list(offered().values())

    @routes.post("/flows/{name}")
    def start(name: str, request: FlowRequest) -> FlowRun:
        """Start a flow."""
        prefect = configured()
        if settings.models:
            _check_models(settings, name, offered(), request.parameters)
        return _run(prefect, prefect.start(name, request.parameters))

    @routes.get("/flow-runs/{id}")
    def state(id: str) -> FlowRun:
        """Return how far a flow run is."""
        return _run(configured(), id)

    @routes.delete("/flow-runs/{id}", status_code=204)
    def cancel(id: str) -> None:
        """Cancel a flow run."""
        configured().cancel(id)

    return routes


def _run(server: FlowServer, id: str) -> FlowRun:
    """Return the state of a flow run, with what it has recorded once it has ended."""
    state = server.flow_state(id)
    return FlowRun(**state.model_dump(), runs=_recorded(id) if state.final else [])


def _model_keys(flow: Deployment) -> dict[str, Any]:
    """Return the parameters of a flow that name models, with their defaults."""
    fields = flow.parameters.get("properties", {})
    return {key: fields[key].get("default", []) for key in _MODEL_KEYS if key in fields}


def _check_models(
    settings: Settings, name: str, offered: Mapping[str, Deployment], parameters: Mapping[str, Any]
) -> None:
    """Raise NeuroscopeError unless a flow is offered and uses models of the list only."""
    if name not in offered:
        raise ExperimentError(
            f"the flow '{name}' cannot be started here",
            remedy=f"choose from {', '.join(offered)}",
        )
    for key, default in _model_keys(offered[name]).items():
        value = parameters.get(key, default)
        for model in value if isinstance(value, list) else [value]:
            settings.check_model(str(model))


def _recorded(id: str) -> list[FlowResult]:
    reader = RunReader.connect()
    return [
        FlowResult(name=run.name, address=reader.page_of(run))
        for kind in STUDIES
        for run in reader.find_runs(kind, {FLOW_RUN_TAG: id})
    ]
