"""Servers, a worker and the interface on this machine: what `neuroscope up` starts and stops."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from flows import signals
from flows.environment import LOG_LINES, NO_TELEMETRY, prefect_variables
from flows.health import INTERFACE
from flows.prefect_server import PrefectServer
from flows.processes import Children, check_alone, check_disk, check_ports, end
from flows.running_stack import recorded_servers
from flows.services import HOST, WORKER, address, services
from neuroscope.home import create_home, home
from neuroscope.reporting.tracking_server import SERVER_SETTINGS, embedded_database

REPOSITORY = Path(__file__).absolute().parent.parent
PORTS = {"mlflow": 5000, "prefect": 4200, "health": 5080, "ui": 5090}
"""Name of each server -> its default port."""
FLOWS_AT_ONCE = 2
"""Default number of flows that run at once; each holds a model in memory."""


@dataclass(frozen=True)
class StackAddresses:
    """Addresses of the running servers and of the deployed flows."""

    servers: dict[str, str]
    """Display name of each server, such as MLflow -> its address."""
    deployments: dict[str, str]
    """Name of each deployment -> address of the form that runs it."""
    runs: dict[str, str]
    """Kind of run, which is also the name of a deployment -> address of their table in MLflow."""
    variables: dict[str, str]
    """Environment variables that another terminal needs to use these servers."""
    logs: Path
    """Folder of the log files."""


def up(
    ports: Mapping[str, int] = PORTS,
    *,
    flows_at_once: int = FLOWS_AT_ONCE,
    on_ready: Callable[[StackAddresses], None],
    say: Callable[[str], None] = lambda message: None,
) -> NoReturn:
    """Run MLflow, Prefect and a worker until interrupted.

    Args:
        ports: name of each server -> its port on 127.0.0.1.
        flows_at_once: maximum number of flows that run at once.
        on_ready: function that is called once, when all services are ready.
        say: function that is called with a message at each stage.

    Raises:
        StackError: a port is in use, or a service does not start or has ended.
    """
    with Stack(ports, flows_at_once=flows_at_once, say=say) as stack:
        addresses = stack.addresses()
        with recorded_servers(addresses.servers):
            on_ready(addresses)
            stack.wait()


class Stack:
    """MLflow, Prefect with its deployments, a worker and the interface, while the block lasts.

    >>> with Stack(PORTS) as stack:
    ...     print(stack.addresses().servers["Prefect"])
    ...     stack.wait()

    Raises:
        StackError: on entering, if a service does not start; in `wait`, if one has ended.
        ResourceError: on entering, if the disk is nearly full.
    """

    def __init__(
        self,
        ports: Mapping[str, int] = PORTS,
        *,
        flows_at_once: int = FLOWS_AT_ONCE,
        say: Callable[[str], None] = lambda message: None,
        folder: Path = REPOSITORY,
        limit: float = 180,
    ):
        """Prepare the stack; entering the block starts it.

        Args:
            ports: name of each server -> its port on 127.0.0.1.
            flows_at_once: maximum number of flows that run at once.
            say: function that is called with a message at each stage.
            folder: folder of prefect.yaml.
            limit: seconds that each service may take to start.
        """
        self._ports = ports
        self._flows_at_once = flows_at_once
        self._say = say
        self._folder = folder
        self._logs = home() / "logs"
        servers = (address(ports[name]) for name in ("mlflow", "prefect", "ui"))
        self._variables = stack_environment(*servers)
        self._children = Children(self._logs, self._variables, limit=limit)

    def __enter__(self) -> Self:
        create_home()
        check_disk(home())
        self._services = services(self._ports, self._variables, self._folder, self._flows_at_once)
        check_alone("NEUROSCOPE_HOME", str(home()))
        check_ports(self._ports)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def addresses(self) -> StackAddresses:
        """Return the addresses of the servers, the forms in Prefect and the runs in MLflow."""
        from neuroscope.reporting.experiments import runs_pages
        from neuroscope.studies.study import STUDIES

        prefect = PrefectServer(address(self._ports["prefect"]), self._variables)
        names = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")
        servers = {service.title: service.address for service in self._services if service.title}
        return StackAddresses(
            servers=dict(sorted(servers.items())),
            deployments=prefect.deployment_pages(),
            # from the database: requests to the server might go through a proxy of the user
            runs=runs_pages(
                address(self._ports["mlflow"]), embedded_database(home()), [*STUDIES, "monitor"]
            ),
            variables={name: self._variables[name] for name in names},
            logs=self._logs,
        )

    def wait(self) -> NoReturn:
        """Watch the services until interrupted; raise StackError if one has ended."""
        while True:
            signals.check()
            self._children.check()
            time.sleep(0.5)

    def stop(self) -> None:
        """End the running flows, the worker and then the servers; if interrupted, kill all."""
        try:
            self._end_flow_runs()
            self._children.stop(WORKER)
            self._children.stop(*(service.name for service in self._services))
        finally:
            self._children.kill()

    def _start(self) -> None:
        for service in self._services:
            if service.announcement:
                self._say(service.announcement)
            service.prepare(self._children)
            self._children.start(
                service.name, *service.command, cwd=service.folder, ends=service.ends
            )
        for service in self._services:
            self._children.wait_until(service.name, service.is_ready)

    def _end_flow_runs(self) -> None:
        """End running flows before the worker does, so that they can close their MLflow runs."""
        flows = self._children.below(WORKER)
        message = f"stopping, with {len(flows)} running flow(s)" if flows else "stopping"
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._say(message)
        if end(flows):  # the worker reports killed flows, and runs their hooks in a new process
            self._children.settle(WORKER)


def stack_environment(mlflow: str, prefect: str, interface: str = "") -> dict[str, str]:
    """Return the environment of the servers, the worker and its flows.

    Args:
        mlflow: address of the MLflow server.
        prefect: address of the Prefect server.
        interface: address of the interface; empty if there is none.
    """
    foreign = ("MLFLOW_RUN_ID", "PREFECT_PROFILE", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
    no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    direct_hosts = f"{no_proxy},{HOST}" if no_proxy else HOST
    return {
        **{name: value for name, value in os.environ.items() if name not in foreign},
        **NO_TELEMETRY,
        **SERVER_SETTINGS,
        "NEUROSCOPE_HOME": str(home()),
        "MLFLOW_TRACKING_URI": mlflow,
        INTERFACE: interface,
        **({} if os.environ.get("PREFECT_HOME") else prefect_variables(home() / "prefect")),
        # the user's profiles are for other servers
        "PREFECT_PROFILES_PATH": str(home() / "prefect" / "profiles.toml"),
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_SERVER_UI_API_URL": f"{prefect}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # each V2 page sends a request to another host
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        **LOG_LINES,
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # otherwise a run waits up to ten seconds
        # otherwise SQLite records task runs many seconds late
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "no_proxy": direct_hosts,
        "NO_PROXY": direct_hosts,
    }
