"""The services of `neuroscope up`: how each is started, and how it shows that it is ready."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.prefect_server import WORK_POOL, PrefectServer
from flows.processes import Children
from neuroscope.errors import StackError
from neuroscope.home import home

HOST = "127.0.0.1"
WORKER = "worker"
"""Name of the service whose processes are flow runs."""
_FLOW_RUNS_AT_ONCE = "2"  # each holds a model


def _nothing(children: Children) -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Service:
    """A Python process of the stack."""

    name: str
    """Of the process and its log file."""
    command: tuple[str, ...]
    """Arguments of Python."""
    ready: Callable[[], bool]
    """Whether the service is ready; may raise StackError while it is not."""
    title: str = ""
    """Of a server, as the user reads it."""
    address: str = ""
    """Of a server, for a browser."""
    prepare: Callable[[Children], None] = _nothing
    """What to do before the process starts."""
    announcement: str = ""
    """Shown to the user before `prepare`."""
    folder: Path | None = None
    """The working directory; that of the logs if there is none."""
    ends: bool = False
    """Whether the process ends by itself."""

    def is_ready(self) -> bool:
        """Return whether the service responds as it should."""
        try:
            return self.ready()
        except StackError:
            return False


def services(ports: Mapping[str, int], variables: Mapping[str, str], folder: Path) -> list[Service]:
    """Return the services in the order in which they start.

    Args:
        ports: name of each server -> its port.
        variables: environment of the services.
        folder: that of prefect.yaml.

    Raises:
        StackError: there is no prefect.yaml in `folder`.
    """
    server = PrefectServer(address(ports["prefect"]), variables)
    prefect = prefect_service(server, ports["prefect"])
    return [
        prefect,
        mlflow_service(ports["mlflow"]),
        worker_service(server, prefect),
        deployment_service(server, folder),
    ]


def prefect_service(server: PrefectServer, port: int) -> Service:
    """Return Prefect's server."""
    return Service(
        "prefect",
        ("-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)),
        server.responds,
        title="Prefect",
        address=server.address,
        announcement="starting Prefect and MLflow",
    )


def mlflow_service(port: int) -> Service:
    """Return MLflow's server; its database is first migrated to the schema of this MLflow."""
    database = f"sqlite:///{home() / 'mlflow.db'}"
    artifacts = (home() / "artifacts").as_uri()
    server = ("-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1")
    # plain files, so that they stay readable where the database is used without a server
    stores = ("--backend-store-uri", database, "--default-artifact-root", artifacts)

    def upgrade(children: Children) -> None:
        from filelock import FileLock

        with FileLock(home() / "mlflow.lock"):  # held by every process that creates its tables
            children.run("mlflow-upgrade", "-m", "mlflow", "db", "upgrade", database)

    return Service(
        "mlflow",
        (*server, *stores, "--artifacts-destination", artifacts),
        lambda: _mlflow_responds(address(port)),
        title="MLflow",
        address=address(port),
        prepare=upgrade,
    )


def worker_service(server: PrefectServer, prefect: Service) -> Service:
    """Return the worker that runs the flows; its work pool is created first."""
    options = ("--type", "process", "--pool", WORK_POOL, "--name", WORK_POOL)
    created = datetime.now(UTC)

    def prepare(children: Children) -> None:
        children.wait_until(prefect.name, prefect.is_ready)
        server.create_work_pool()
        server.crash_unfinished_flow_runs()

    return Service(
        WORKER,
        ("-m", "prefect", "worker", "start", *options, "--limit", _FLOW_RUNS_AT_ONCE),
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


def deployment_names(folder: Path) -> set[str]:
    """Return the names of the deployments in prefect.yaml.

    Raises:
        StackError: there is no such file in the folder.
    """
    import yaml

    file = folder / "prefect.yaml"
    if not file.is_file():
        raise StackError(
            f"{file} is missing, and `neuroscope up` needs the repository",
            remedy="clone it and install it with `pip install -e .`",
        )
    return {deployment["name"] for deployment in yaml.safe_load(file.read_text())["deployments"]}


def address(port: int) -> str:
    """Return the address of a server on this machine."""
    return f"http://{HOST}:{port}"


def _mlflow_responds(address: str) -> bool:
    import httpx

    search = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
    try:
        return httpx.get(search, timeout=10, trust_env=False).is_success
    except httpx.HTTPError:
        return False
