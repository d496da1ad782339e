"""The stack of docker/compose.yaml in a real container engine, for its test."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from browsers import free_ports, missing, wait_for

ROOT = Path(__file__).parents[2]
IMAGES = {
    "postgres": "postgres:17.6-bookworm",
    "redis": "redis:8.2-bookworm",
    "s3": "chrislusf/seaweedfs:3.97",
}
"""Images of docker/compose.yaml for which there are stand-ins, by the names of their files."""
PICTURES = os.environ.get("NEUROSCOPE_PICTURES")
"""Folder for pictures of the pages; none are made if it is not set."""
_FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def run(*command, folder=ROOT, **options):
    """Run a command; return its output, or raise an error that contains it."""
    process = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True, **options
    )
    assert process.returncode == 0, f"{command}\n{process.stdout}\n{process.stderr}"
    return process.stdout


def succeeds(*command):
    """Return whether a command succeeds."""
    return not subprocess.run(command, capture_output=True).returncode


def check_engine():
    """Skip the test without a container engine; fail it in CI."""
    if not shutil.which("docker") or not succeeds("docker", "version"):
        missing("no container engine; start one with `export DOCKER_HOST=$(docker/engine)`")


def copy_repository(folder):
    """Copy the files of the working tree that git tracks."""
    for name in run("git", "ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def add_wheel(folder):
    """Put PyTorch for the CPU where the build finds it, if the usual package index has it.

    Returns:
        The index from which the build installs PyTorch, or None for the one of the Dockerfile.
    """
    pins = (ROOT / "constraints.txt").read_text().split()
    (pin,) = [pin for pin in pins if pin.startswith("torch==")]
    wheels = folder / "docker" / "wheels"
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, pin)
    (wheel,) = wheels.glob("torch-*.whl")
    if "+cpu" in wheel.name:
        return "https://pypi.org/simple"
    wheel.unlink()
    return None


def provide(name):
    """Pull an image or, where no registry can be reached, build its stand-in."""
    image = IMAGES[name]
    if succeeds("docker", "image", "inspect", image) or succeeds("docker", "pull", image):
        return
    file = ROOT / f"tests/engine/{name}.Dockerfile"
    run("docker", "build", "--network", "host", "--file", file, "--tag", image, file.parent)


def provide_all():
    """Provide all images, one after the other, beside what the caller does; return the futures."""
    executor = ThreadPoolExecutor(max_workers=1)
    return [executor.submit(provide, name) for name in IMAGES]


def take_picture(page, name):
    """Save a picture of a page, if pictures are wanted."""
    if PICTURES:
        page.wait_for_timeout(3000)  # for animations
        page.screenshot(path=Path(PICTURES) / name)


class RunningStack:
    """The stack of a copy of the repository, with ports and a project of its own."""

    def __init__(self, folder, name="test"):
        self.folder = folder
        self.project = f"neuroscope-{name}-{os.getpid()}"
        ports = free_ports("mlflow", "prefect", "health", "ui")
        self.mlflow, self.prefect, self.health_page, self.interface = (
            f"http://127.0.0.1:{port}" for port in ports.values()
        )
        self.links = f"{self.health_page}/"
        run("docker/setup", folder=folder)
        values = {
            "COMPOSE_PROJECT_NAME": self.project,
            "MLFLOW_PORT": ports["mlflow"],
            "PREFECT_PORT": ports["prefect"],
            "HEALTH_PORT": ports["health"],
            "MLFLOW_ADDRESS": self.mlflow,
            "PREFECT_ADDRESS": self.prefect,
            "UI_PORT": ports["ui"],
            "UI_ADDRESS": self.interface,
        }
        self.configure(values)

    @contextlib.contextmanager
    def worker_elsewhere(self, folder):
        """Run a worker of another machine, which has nothing of this stack but two passwords."""
        copy_repository(folder)
        elsewhere = RunningStack(folder, "elsewhere")
        for name in ("mlflow_password", "prefect_password"):
            (folder / "docker/secrets" / name).write_text(self.secret(name))
        elsewhere.configure({"WORKER_NAME": "elsewhere"})
        try:
            elsewhere.compose("up", "--no-start", "--no-deps", "worker")
            worker = elsewhere.container("worker")["Id"]
            run("docker", "network", "connect", f"{self.project}_default", worker)
            elsewhere.compose("start", "worker")
            yield elsewhere
        finally:
            elsewhere.remove()

    def configure(self, values):
        """Change settings of docker/.env."""
        settings = self.folder / "docker/.env"
        lines = settings.read_text().splitlines()
        lines = [line for line in lines if line.partition("=")[0] not in values]
        lines += [f"{name}={value}" for name, value in values.items()]
        settings.write_text("\n".join(lines) + "\n")

    def compose(self, *arguments):
        """Run a command of Compose; return its output."""
        script = ("sh", "-c", '. docker/compose.sh && compose "$@"', "docker/setup")
        return run(*script, *arguments, folder=self.folder)

    def start(self, *profiles):
        """Start all services, and wait for the worker."""
        options = [word for profile in profiles for word in ("--profile", profile)]
        self.compose(*options, "up", "--detach")
        wait_for(lambda: self.health("worker") == "healthy", 120)

    def container(self, service):
        """Return what the engine knows of the container of a service."""
        id = self.compose("ps", "--quiet", service).strip()
        return json.loads(run("docker", "inspect", id))[0]

    def health(self, service):
        """Return whether a service is `healthy`, `unhealthy` or `starting`."""
        return self.container(service)["State"]["Health"]["Status"]

    def secret(self, name):
        """Return a password."""
        return (self.folder / "docker/secrets" / name).read_text()

    def ask_mlflow(self, path, **options):
        """Send a request to MLflow; return the response."""
        login = ("admin", self.secret("mlflow_password"))
        return httpx.get(
            f"{self.mlflow}/api/2.0/mlflow/{path}", **{"auth": login, "timeout": 30, **options}
        )

    def ask_prefect(self, path, document=None):
        """Send a request to Prefect; return the document that it answers."""
        login = ("admin", self.secret("prefect_password"))
        method = "GET" if document is None else "POST"
        response = httpx.request(
            method, f"{self.prefect}/api/{path}", json=document, auth=login, timeout=30
        )
        return response.raise_for_status().json()

    def start_flow(self, name, **parameters):
        """Start a deployment; return the id of the flow run."""
        deployments = {row["name"]: row["id"] for row in self.ask_prefect("deployments/filter", {})}
        path = f"deployments/{deployments[name]}/create_flow_run"
        return self.ask_prefect(path, {"parameters": parameters})["id"]

    def state(self, flow_run):
        """Return the state of a flow run."""
        return self.ask_prefect(f"flow_runs/{flow_run}")["state_type"]

    def final_state(self, flow_run, limit=180):
        """Return the final state of a flow run, once it has one."""

        def final():
            state = self.state(flow_run)
            return state if state in _FINAL else None

        return wait_for(final, limit)

    def query(self, database, sql):
        """Return the answer of PostgreSQL to a query, a text."""
        command = ("psql", "--username", "postgres", "--tuples-only", "--no-align", "--command")
        return self.compose("exec", "-T", "postgres", *command, sql, database).strip()

    def counts(self):
        """Return the numbers of finished runs, of completed flow runs, and of artifacts."""
        files = self.compose("exec", "-T", "mlflow", "find", "/artifacts", "-type", "f")
        return (
            self.query("mlflow", "select count(*) from runs where status = 'FINISHED'"),
            self.query("prefect", "select count(*) from flow_run where state_type = 'COMPLETED'"),
            len(files.split()),
        )

    def remove(self):
        """Remove containers and volumes."""
        profiles = ("--profile", "s3", "--profile", "scale")
        self.compose(*profiles, "down", "--volumes", "--timeout", "10")
