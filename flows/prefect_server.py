"""Prefect servers: a client for that of `neuroscope up`, and the embedded server of `run`."""

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.environment import environment
from flows.signals import Awaited, in_thread, shielded
from neuroscope.errors import ExperimentError, StackError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import WorkPoolFilter
    from prefect.client.schemas.objects import FlowRun, TaskRun
    from prefect.client.schemas.responses import DeploymentResponse

_CRASHED = "the process of this flow run was killed"
_HEARTBEAT = "prefect.flow-run.heartbeat"
_FINAL = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")
_SILENCE = timedelta(seconds=90)  # of three heartbeats

WORK_POOL = "neuroscope"
"""Name of the work pool of `neuroscope up`."""


class PrefectServer:
    """Client of a Prefect server that has the work pool of `neuroscope up`.

    >>> server = PrefectServer("http://127.0.0.1:4200", dict(os.environ))
    >>> server.create_work_pool()

    All methods raise StackError if the server does not respond or refuses a request.
    """

    def __init__(self, address: str, variables: Mapping[str, str]):
        """Store the address of the server, and the environment that contains Prefect's settings."""
        self.address = address
        self._variables = variables

    @classmethod
    def from_environment(cls) -> "PrefectServer":
        """Return a client of the server that `PREFECT_API_URL` names."""
        return cls(os.environ.get("PREFECT_API_URL", "").removesuffix("/api"), os.environ)

    def for_browser(self, address: str) -> str:
        """Return an address of the server as a browser reaches it, which `PREFECT_UI_URL` names."""
        root = self._variables.get("PREFECT_UI_URL") or self.address
        return root + address.removeprefix(self.address)

    def responds(self) -> bool:
        """Return True if the server responds and can read its database."""
        with self._client() as client:
            client.read_work_pools(limit=1)
        return True

    def create_work_pool(self) -> None:
        """Create the work pool unless it exists; the worker adds the settings of its type."""
        with self._client() as client:
            from prefect.client.schemas.actions import WorkPoolCreate
            from prefect.exceptions import ObjectAlreadyExists

            with contextlib.suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))

    def crash_unfinished_flow_runs(self) -> None:
        """Mark as crashed the flow runs that a killed worker of the pool left unfinished."""
        unfinished = {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}
        with self._client() as client:
            from prefect.client.schemas.filters import FlowRunFilter
            from prefect.client.schemas.objects import State
            from prefect.states import Crashed

            state: State[Any] = Crashed(message="neuroscope was killed while this flow was running")
            flow_runs = client.read_flow_runs(
                flow_run_filter=FlowRunFilter.model_validate({"state": unfinished}),
                work_pool_filter=_pool_filter(),
            )
            for flow_run in flow_runs:
                client.set_flow_run_state(flow_run.id, state, force=True)

    def create_crash_automation(self) -> None:
        """Create the automation that marks a flow run as crashed once its process is gone.

        A process sends heartbeats while it runs a flow (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY`). If
        they end without a final state, the process, its container or its machine was killed.
        """
        with self._client() as client:
            from prefect.client.schemas.objects import StateType
            from prefect.events.actions import ChangeFlowRunState
            from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

            crash = ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message=_CRASHED, force=False
            )
            ends = [f"prefect.flow-run.{state}" for state in _FINAL]
            automation = AutomationCore(
                name=_CRASHED,
                trigger=EventTrigger(
                    posture=Posture.Proactive,
                    after={_HEARTBEAT},
                    expect={_HEARTBEAT, *ends},
                    match={"prefect.resource.id": "prefect.flow-run.*"},
                    for_each={"prefect.resource.id"},
                    threshold=1,
                    within=_SILENCE,
                ),
                actions=[crash],
            )
            if not client.read_automations_by_name(_CRASHED):
                client.create_automation(automation)

    def has_worker(self, since: datetime) -> bool:
        """Return whether a worker has reported since a time.

        Prefect lists a worker as online for a while after it has ended.
        """
        with self._client() as client:
            workers = client.read_workers_for_work_pool(WORK_POOL)
        return any(
            worker.status.name == "ONLINE"
            and worker.last_heartbeat_time is not None
            and worker.last_heartbeat_time >= since
            for worker in workers
        )

    def deployment_pages(self) -> dict[str, str]:
        """Return the deployments that are ready to run: name -> address of the form."""
        return {
            deployment.name: f"{self.address}/deployments/deployment/{deployment.id}/run"
            for deployment in self.deployed()
            if deployment.status is not None and deployment.status.name == "READY"
        }

    def deployed(self) -> "list[DeploymentResponse]":
        """Return the deployments of the work pool, by their names."""
        with self._client() as client:
            deployments = client.read_deployments(work_pool_filter=_pool_filter())
        return sorted(deployments, key=lambda deployment: deployment.name)

    def start_flow(self, deployment: UUID, parameters: Mapping[str, Any], tag: str) -> UUID:
        """Start a flow run with a tag and return its id.

        Raises:
            ExperimentError: the server refuses the parameters.
        """
        with self._client() as client:
            import httpx

            try:
                return client.create_flow_run_from_deployment(
                    deployment, parameters=dict(parameters), tags=[tag]
                ).id
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in (409, 422):
                    raise
                detail = error.response.json().get("detail", "")
                raise ExperimentError(
                    f"the flow cannot start with these parameters: {detail}",
                    remedy="correct them",
                ) from error

    def flow_run(self, id: UUID) -> "tuple[FlowRun, list[TaskRun]]":
        """Return a flow run and its task runs.

        Raises:
            ExperimentError: there is no such flow run.
        """
        with self._client() as client:
            from prefect.client.schemas.filters import FlowRunFilter
            from prefect.exceptions import ObjectNotFound

            try:
                run = client.read_flow_run(id)
            except ObjectNotFound as error:
                raise _no_flow_run(id) from error
            own = FlowRunFilter.model_validate({"id": {"any_": [id]}})
            steps: list[TaskRun] = []
            while page := client.read_task_runs(flow_run_filter=own, offset=len(steps)):
                steps += page
            return run, steps

    def cancel_flow_run(self, id: UUID) -> None:
        """Cancel a flow run, unless it has ended.

        Raises:
            ExperimentError: there is no such flow run.
        """
        with self._client() as client:
            from prefect.exceptions import ObjectNotFound
            from prefect.states import Cancelling

            try:
                client.set_flow_run_state(id, Cancelling())
            except ObjectNotFound as error:
                raise _no_flow_run(id) from error

    @contextlib.contextmanager
    def _client(self) -> "Iterator[SyncPrefectClient]":
        import httpx

        # Prefect reads its settings on import; those of the user's profile are for other servers
        with environment(self._variables):
            from prefect.client.orchestration import SyncPrefectClient

        # HTTP needs no certificates, and loading them takes 20 ms
        secure = self.address.startswith("https://")
        context = (
            ssl.create_default_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        )
        settings = {"timeout": 10, "trust_env": False, "verify": context}
        try:
            login = self._variables.get("PREFECT_API_AUTH_STRING")
            with SyncPrefectClient(
                f"{self.address}/api", auth_string=login, httpx_settings=settings
            ) as client:
                yield client
        except httpx.HTTPError as error:
            raise StackError(f"the Prefect server {self.address} failed: {error}") from error


def _no_flow_run(id: UUID) -> ExperimentError:
    return ExperimentError(f"there is no flow run '{id}'", remedy="start one")


def start_embedded_server() -> None:
    """Start the server that Prefect would otherwise start itself, unless one is configured.

    Ctrl-C does not reach this server. If the server ended, Prefect would try for more than a minute
    to report that the flow was interrupted.

    Raises:
        StackError: the server does not start.
    """
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        Awaited(in_thread(_start_shielded)).result()


def _start_shielded() -> None:
    import httpx
    from prefect.server.api.server import SubprocessASGIServer

    try:
        with shielded():
            SubprocessASGIServer().start()
    except (RuntimeError, httpx.HTTPError) as error:
        raise StackError(
            f"the embedded Prefect server does not start: {error}",
            remedy="try again, or set PREFECT_API_URL to the address of another server",
        ) from error


def _pool_filter() -> "WorkPoolFilter":
    from prefect.client.schemas.filters import WorkPoolFilter

    return WorkPoolFilter.model_validate({"name": {"any_": [WORK_POOL]}})
