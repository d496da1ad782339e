"""Services of `neuroscope up`: how each is started, and when it is ready."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.health import ALIVE, PATH
from flows.prefect_server import WORK_POOL, PrefectServer
from flows.processes import Children
from neuroscope.errors import StackError
from neuroscope.home import home
from neuroscope.reporting.tracking_server import embedded_database, opened_alone, server_arguments
from neuroscope.web.settings import HEALTH as INTERFACE_PATH

HOST = "127.0.0.1"
WORKER = "worker"
"""Name of the service whose processes are flow runs."""


def _nothing(children: Children) -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Service:
    """Python process of the stack."""

    name: str
    """Name of the process and of its log file."""
    command: tuple[str, ...]
    """Arguments of the Python interpreter."""
    ready: Callable[[], bool]
    """Function that returns whether the service is ready; may raise StackError if it is not."""
    title: str = ""
    """Display name of a server; empty for other services."""
    address: str = ""
    """Address of a server, for a browser; empty for other services."""
    prepare: Callable[[Children], None] = _nothing
    """Function that is called before the process starts."""
    announcement: str = ""
    """Message to the user, shown before `prepare` is called."""
    folder: Path | None = None
    """Working directory; None for the folder of the log files."""
    ends: bool = False
    """Whether the process is expected to end by itself."""

    def is_ready(self) -> bool:
        """Return whether the service is ready."""
        try:
            return self.ready()
        except StackError:
            return False


def services(
    ports: Mapping[str, int], variables: Mapping[str, str], folder: Path, flows_at_once: int
) -> list[Service]:
    """Return the services in the order in which they start.

    Args:
        ports: name of each server -> its port.
        variables: environment of the services.
        folder: folder of prefect.yaml.
        flows_at_once: maximum number of flows that run at once.

    Raises:
        StackError: there is no prefect.yaml in `folder`.
    """
    server = PrefectServer(address(ports["prefect"]), variables)
    prefect = prefect_service(server, ports["prefect"])
    return [
        prefect,
        mlflow_service(ports["mlflow"]),
        worker_service(server, prefect, flows_at_once),
        deployment_service(server, folder),
        interface_service(ports["ui"]),
        health_service(ports["health"]),
    ]


def prefect_service(server: PrefectServer, port: int) -> Service:
    """Return the Prefect server."""
    return Service(
        "prefect",
        ("-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)),
        server.responds,
        title="Prefect",
        address=server.address,
        announcement="starting Prefect and MLflow",
    )


def mlflow_service(port: int) -> Service:
    """Return the MLflow server, whose database is first created, or migrated to its version."""
    database = embedded_database(home())

    def prepare(children: Children) -> None:
        from neuroscope.reporting.mlflow_client import open_client
        from neuroscope.reporting.tracking_errors import OutdatedTablesError

        try:
            open_client(database)
        except OutdatedTablesError:
            with opened_alone(database):
                children.run("mlflow-upgrade", "-m", "mlflow", "db", "upgrade", database)
            open_client(database)

    return Service(
        "mlflow",
        tuple(server_arguments(home(), port)),
        lambda: _mlflow_responds(address(port)),
        title="MLflow",
        address=address(port),
        prepare=prepare,
    )


def worker_service(server: PrefectServer, prefect: Service, flows_at_once: int) -> Service:
    """Return the worker that runs the flows, whose work pool is created first."""
    options = ("--type", "process", "--pool", WORK_POOL, "--name", WORK_POOL)
    created = datetime.now(UTC)

    def prepare(children: Children) -> None:
        children.wait_until(prefect.name, prefect.is_ready)
        server.create_work_pool()
        server.crash_unfinished_flow_runs()

    return Service(
        WORKER,
        ("-m", "prefect", "worker", "start", *options, "--limit", str(flows_at_once)),
        lambda: server.has_worker(since=created),
        prepare=prepare,
        announcement="starting a worker and deploying the flows",
    )


def deployment_service(server: PrefectServer, folder: Path) -> Service:
    """Return the command that deploys the flows of prefect.yaml."""
    names = deployment_names(folder)
    return Service(
        "deployment",
        ("-m", "prefect", "--no-prompt", "deploy", "--all"),
        lambda: names <= set(server.deployment_pages()),
        folder=folder,
        ends=True,
    )


def interface_service(port: int) -> Service:
    """Return the interface."""
    return Service(
        "ui",
        ("-m", "flows.cli", "ui", "--host", HOST, "--port", str(port)),
        lambda: _responds(f"{address(port)}{INTERFACE_PATH}"),
        title="Interface",
        address=address(port),
    )


def health_service(port: int) -> Service:
    """Return the server of the health of all services."""
    return Service(
        "health",
        ("-m", "flows.health", "--host", HOST, "--port", str(port)),
        lambda: _responds(f"{address(port)}{ALIVE}"),
        title="Health",
        address=f"{address(port)}{PATH}",
    )


def deployment_names(folder: Path) -> set[str]:
    """Return the names of the deployments in prefect.yaml.

    Raises:
        StackError: there is no such file in the folder.
    """
    from ruamel.yaml import YAML

    file = folder / "prefect.yaml"
    if not file.is_file():
        raise StackError(
            f"{file} is missing; `neuroscope up` runs from a clone of the repository only",
            remedy="clone the repository and install it with `pip install -e .`",
        )
    document = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    return {deployment["name"] for deployment in document["deployments"]}


def address(port: int) -> str:
    """Return the address of a server on this machine."""
    return f"http://{HOST}:{port}"


def _mlflow_responds(address: str) -> bool:
    return _responds(f"{address}/api/2.0/mlflow/experiments/search?max_results=1")


def _responds(address: str) -> bool:
    import httpx

    try:
        return httpx.get(address, timeout=10, trust_env=False).is_success
    except httpx.HTTPError:
        return False
