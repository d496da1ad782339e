"""MLflow, Prefect and a worker on this machine: what `neuroscope up` starts, watches and stops."""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from flows.environment import NO_TELEMETRY
from flows.processes import Children, check_alone, check_ports, end, signals_interrupt
from neuroscope.errors import StackError
from neuroscope.home import home
from neuroscope.reporting.tracking_server import embedded_database, server_arguments

if TYPE_CHECKING:
    import httpx

REPOSITORY = Path(__file__).absolute().parent.parent
WORK_POOL = "neuroscope"
_FLOW_RUNS_AT_ONCE = "2"  # each holds a model
_IN_POOL = {"work_pools": {"name": {"any_": [WORK_POOL]}}}  # a filter of Prefect's API


@dataclass(frozen=True)
class StackAddresses:
    """Where a browser finds what runs."""

    mlflow: str
    prefect: str
    deployments: dict[str, str]
    """Name -> page that has the button to run it."""
    logs: Path


def up(
    mlflow_port: int = 5000,
    prefect_port: int = 4200,
    *,
    on_ready: Callable[[StackAddresses], None],
    say: Callable[[str], None] = lambda message: None,
) -> None:
    """Runs MLflow, Prefect and a worker until Ctrl-C, SIGTERM or the end of the terminal.

    Args:
        mlflow_port: on 127.0.0.1.
        prefect_port: on 127.0.0.1.
        on_ready: called once, when all of them answer.
        say: called with what happens meanwhile.

    Raises:
        StackError: a port is in use, or something does not start or has ended.
    """
    with (
        contextlib.suppress(KeyboardInterrupt),
        signals_interrupt(),
        Stack(mlflow_port, prefect_port, say=say) as stack,
    ):
        on_ready(stack.addresses)
        stack.wait()


class Stack:
    """MLflow, Prefect with its deployments, and a worker, for as long as the block lasts.

    >>> with Stack(mlflow_port=5000, prefect_port=4200) as stack:
    ...     print(stack.addresses.prefect)
    ...     stack.wait()

    Raises:
        StackError: on entering, where something does not start; in `wait`, where it has ended.
    """

    addresses: StackAddresses

    def __init__(
        self,
        mlflow_port: int = 5000,
        prefect_port: int = 4200,
        *,
        say: Callable[[str], None] = lambda message: None,
        folder: Path = REPOSITORY,
        limit: float = 180,
    ):
        """Takes the folder of prefect.yaml, and the seconds that each part may take to start."""
        self._ports = {"--mlflow-port": mlflow_port, "--prefect-port": prefect_port}
        self._mlflow = f"http://127.0.0.1:{mlflow_port}"
        self._prefect = f"http://127.0.0.1:{prefect_port}"
        self._say = say
        self._folder = folder
        self._limit = limit
        self._home = home()
        environment = stack_environment(self._mlflow, self._prefect)
        self._children = Children(self._home / "logs", environment)

    def __enter__(self) -> Self:
        names = deployment_names(self._folder)
        check_alone("NEUROSCOPE_HOME", str(self._home))
        check_ports(self._ports)
        try:
            self._start(names)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def wait(self) -> NoReturn:
        """Watches the parts until interrupted; StackError where one has ended."""
        while True:
            self._children.check()
            time.sleep(0.5)

    def stop(self) -> None:
        """Ends running flows, the worker, then the servers. Interrupted, it kills them at once."""
        try:
            self._end_flow_runs()
            self._children.stop("worker")
            self._children.stop("mlflow", "prefect")
        finally:
            self._children.kill()

    def _start(self, names: set[str]) -> None:
        self._say("starting Prefect and MLflow")
        self._start_prefect()
        self._start_mlflow()
        self._wait_for("prefect", lambda: self._ask("deployments") is not None)
        self._say("starting a worker and deploying the flows")
        self._make_work_pool()
        self._crash_stale_flow_runs()
        began = time.time()
        self._start_worker()
        deploy = ("-m", "prefect", "--no-prompt", "deploy", "--all")
        self._children.run("deployment", *deploy, cwd=self._folder, limit=self._limit)
        self._wait_for("worker", lambda: self._worker_is_online(began))
        self._wait_for("worker", lambda: names <= set(self._pages()))
        self._wait_for("mlflow", self._mlflow_answers)
        self.addresses = StackAddresses(
            self._mlflow, self._prefect, self._pages(), self._home / "logs"
        )

    def _start_prefect(self) -> None:
        port = str(self._ports["--prefect-port"])
        server = ("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port)
        self._children.start("prefect", *server)

    def _start_mlflow(self) -> None:
        """Brings the database to this MLflow's schema, then starts the server."""
        from filelock import FileLock

        database = embedded_database(self._home)
        with FileLock(self._home / "mlflow.lock"):  # held by all that create its tables
            upgrade = ("-m", "mlflow", "db", "upgrade", database)
            self._children.run("mlflow-upgrade", *upgrade, limit=self._limit)
        port = self._ports["--mlflow-port"]
        self._children.start("mlflow", *server_arguments(self._home, port))

    def _start_worker(self) -> None:
        worker = ("-m", "prefect", "worker", "start", "--type", "process", "--pool", WORK_POOL)
        options = ("--name", WORK_POOL, "--limit", _FLOW_RUNS_AT_ONCE)
        self._children.start("worker", *worker, *options)

    def _make_work_pool(self) -> None:
        with _client(self._prefect) as client:  # the worker fills in the settings of its type
            answer = client.post("/api/work_pools/", json={"name": WORK_POOL, "type": "process"})
        if answer.status_code not in (201, 409):  # made, or there already
            raise StackError(f"Prefect does not make the work pool {WORK_POOL}: {answer.text}")

    def _crash_stale_flow_runs(self) -> None:
        """Ends flow runs that a worker of this pool has left open when it was killed."""
        unfinished = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
        crashed = {"type": "CRASHED", "message": "neuroscope was killed while this ran"}
        with _client(self._prefect) as client:
            for run in self._ask("flow_runs", flow_runs=unfinished, **_IN_POOL):
                body = {"state": crashed, "force": True}
                client.post(f"/api/flow_runs/{run['id']}/set_state", json=body)

    def _end_flow_runs(self) -> None:
        """Lets running flows close what they opened: a worker that is ended would kill them."""
        flows = self._children.below("worker")
        message = f"stopping, with {len(flows)} running flow(s)" if flows else "stopping"
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._say(message)
        if end(flows):  # the worker reports what was killed, and runs its hooks in a new process
            self._children.settle("worker")

    def _wait_for(self, name: str, ready: Callable[[], bool]) -> None:
        """Waits until a server says yes; as long as it is not there, that is a no."""
        import httpx

        def answers() -> bool:
            try:
                return ready()
            except httpx.HTTPError:
                return False

        self._children.wait_until(name, answers, self._limit)

    def _mlflow_answers(self) -> bool:
        with _client(self._mlflow) as client:
            search = "/api/2.0/mlflow/experiments/search"
            return client.get(search, params={"max_results": 1}).raise_for_status().is_success

    def _worker_is_online(self, since: float) -> bool:
        """Whether the worker has shown itself since then: an earlier one counts for a while."""
        return any(
            worker["status"] == "ONLINE"
            and datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() >= since
            for worker in self._ask(f"work_pools/{WORK_POOL}/workers")
        )

    def _pages(self) -> dict[str, str]:
        """Name of each deployment that is ready to run -> its page."""
        return {
            found["name"]: f"{self._prefect}/v2/deployments/deployment/{found['id']}"
            for found in self._ask("deployments", **_IN_POOL)
            if found["status"] == "READY"
        }

    def _ask(self, kind: str, **filters: object) -> list[dict[str, Any]]:
        """What Prefect has of a kind."""
        with _client(self._prefect) as client:
            answer = client.post(f"/api/{kind}/filter", json=filters).raise_for_status()
            found: list[dict[str, Any]] = answer.json()
            return found


def stack_environment(mlflow: str, prefect: str) -> dict[str, str]:
    """What the servers, the worker and its flows find in their environment.

    Args:
        mlflow: address of the server.
        prefect: address of the server.
    """
    of_others = ("MLFLOW_RUN_ID", "PREFECT_PROFILE", "PREFECT_API_KEY")
    without_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    direct = f"{without_proxy},127.0.0.1" if without_proxy else "127.0.0.1"
    return {
        **{name: value for name, value in os.environ.items() if name not in of_others},
        **NO_TELEMETRY,
        "NEUROSCOPE_HOME": str(home()),
        "MLFLOW_TRACKING_URI": mlflow,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PREFECT_HOME": os.environ.get("PREFECT_HOME") or str(home() / "prefect"),
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_SERVER_UI_API_URL": f"{prefect}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # else a run waits ten seconds to be picked up
        # else SQLite records task runs many seconds late
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "no_proxy": direct,
        "NO_PROXY": direct,
    }


def deployment_names(folder: Path) -> set[str]:
    """The names of the deployments in prefect.yaml; StackError where there is none."""
    import yaml

    file = folder / "prefect.yaml"
    if not file.is_file():
        raise StackError(
            f"{file} is missing: `neuroscope up` needs the repository."
            " Clone it and install with `pip install -e .`"
        )
    return {deployment["name"] for deployment in yaml.safe_load(file.read_text())["deployments"]}


def _client(address: str) -> "httpx.Client":
    import httpx

    return httpx.Client(base_url=address, timeout=10, trust_env=False)
