"""Flows that the interface starts on a Prefect server, and their progress."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.prefect_server import PrefectServer
from neuroscope.errors import ExperimentError
from neuroscope.web.flow_api import Deployment, FlowState

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, TaskRun

_TAG = "neuroscope-ui"
"""Tag of the flow runs that an interface has started."""


class StartedFlows:
    """Flow server of the interface: the deployments of the work pool of a Prefect server."""

    def __init__(self, server: PrefectServer):
        self._server = server

    def deployments(self) -> Sequence[Deployment]:
        """Return the flows that can be started."""
        pages = self._server.deployment_pages()
        return [
            Deployment(
                name=own.name,
                description=own.description or "",
                page=self._server.for_browser(pages[own.name]),
                parameters=own.parameter_openapi_schema or {},
            )
            for own in self._server.deployed()
            if own.name in pages
        ]

    def start(self, name: str, parameters: Mapping[str, Any]) -> str:
        """Start a flow and return the id of its run.

        Raises:
            ExperimentError: there is no such flow, or the server refuses the parameters.
        """
        by_name = {own.name: own for own in self._server.deployed()}
        if name not in by_name:
            raise ExperimentError(
                f"there is no flow '{name}'", remedy=f"choose from {', '.join(sorted(by_name))}"
            )
        return str(self._server.start_flow(by_name[name].id, parameters, _TAG))

    def flow_state(self, id: str) -> FlowState:
        """Return the state of a flow run."""
        run, steps = self._started(id)
        state = run.state
        return FlowState(
            id=id,
            name=run.name,
            state=state.name or state.type.value if state else "Scheduled",
            message=(state and state.message) or "",
            final=bool(state and state.is_final()),
            done=sum(1 for step in steps if step.state and step.state.is_completed()),
            total=len(steps),
            page=self._server.for_browser(f"{self._server.address}/runs/flow-run/{id}"),
        )

    def cancel(self, id: str) -> None:
        """Cancel a flow run."""
        run, _ = self._started(id)
        self._server.cancel_flow_run(run.id)

    def _started(self, id: str) -> "tuple[FlowRun, list[TaskRun]]":
        """Return a flow run that an interface has started; raise ExperimentError for another."""
        run, steps = self._server.flow_run(_uuid(id))
        if _TAG not in run.tags:
            raise ExperimentError(
                f"the flow run '{id}' was not started here", remedy="see it in Prefect"
            )
        return run, steps


def _uuid(id: str) -> UUID:
    try:
        return UUID(id)
    except ValueError:
        raise ExperimentError(
            f"'{id[:50]}' is not the id of a flow run",
            remedy="use the id that starting a flow returned",
        ) from None
