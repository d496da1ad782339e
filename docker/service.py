"""Entry point of the containers: start one service of the stack, or check its health.

    service.py run mlflow
    service.py check mlflow

Passwords are read from the files that Compose mounts below /run/secrets, so that they are neither
in the image nor in the settings of a container.
"""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

SECRETS = Path("/run/secrets")
ADMIN = "admin"  # name under which MLflow and Prefect ask for the password
WORKER_PORT = 8080  # of a worker's own health, on its loopback

Command = list[str]
"""Arguments of the Python interpreter."""


def secret(name: str) -> str:
    """Return the content of a secret file; end with a message if it cannot be read."""
    file = SECRETS / name
    try:
        content = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        sys.exit(f"{file} cannot be read ({error.strerror}); create the secrets with docker/setup")
    if not content:
        sys.exit(f"{file} is empty; create the secrets with docker/setup")
    return content


def database(driver: str, name: str) -> str:
    """Return the address of a database, whose role has the same name."""
    password = quote(secret(f"{name}_database_password"), safe="")
    return f"postgresql+{driver}://{name}:{password}@{os.environ['POSTGRES_HOST']}/{name}"


def mlflow() -> Command:
    """Prepare MLflow: its database is first migrated to the installed version."""
    address = database("psycopg", "mlflow")
    settings = Path("/tmp/basic_auth.ini")
    settings.touch(mode=0o600)
    settings.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {address.replace('%', '%%')}\n",  # % begins an interpolation there
        encoding="utf-8",
    )
    os.environ.update(
        MLFLOW_BACKEND_STORE_URI=address,
        MLFLOW_AUTH_CONFIG_PATH=str(settings),
        MLFLOW_AUTH_ADMIN_USERNAME=ADMIN,
        MLFLOW_AUTH_ADMIN_PASSWORD=secret("mlflow_password"),
        MLFLOW_FLASK_SERVER_SECRET_KEY=secret("mlflow_session_key"),
    )
    use_object_store()
    # not as an argument, which every user of the machine can list
    upgrade = "import os; from mlflow.db import upgrade; upgrade([os.environ['DATABASE']])"
    subprocess.run(
        [sys.executable, "-c", upgrade], env={**os.environ, "DATABASE": address}, check=True
    )
    return ["-m", "mlflow", "server", "--host", "0.0.0.0", "--app-name", "basic-auth"]


def remove_deleted() -> Command:
    """Remove from the disk what was deleted in MLflow; run it in the container of `mlflow`."""
    os.environ["DATABASE"] = database("psycopg", "mlflow")
    os.environ["MLFLOW_TRACKING_URI"] = "http://mlflow:5000"
    use_mlflow_login()
    use_object_store()
    collect = "from mlflow.cli import gc; gc(['--backend-store-uri', os.environ['DATABASE']])"
    return ["-c", "import os; " + collect]


def use_object_store() -> None:
    """Give MLflow the keys of the object store, if artifacts are in one."""
    if os.environ.get("MLFLOW_ARTIFACTS_DESTINATION", "").startswith("s3://"):
        os.environ.update(
            AWS_ACCESS_KEY_ID=secret("s3_access_key"), AWS_SECRET_ACCESS_KEY=secret("s3_secret_key")
        )


def bucket() -> Command:
    """Create the bucket of the artifacts unless it exists."""
    use_object_store()
    return [
        "-c",
        "import os, boto3; from urllib.parse import urlsplit;"
        " name = urlsplit(os.environ['MLFLOW_ARTIFACTS_DESTINATION']).netloc;"
        " store = boto3.client('s3', endpoint_url=os.environ['MLFLOW_S3_ENDPOINT_URL']);"
        " names = [bucket['Name'] for bucket in store.list_buckets()['Buckets']];"
        " name in names or store.create_bucket(Bucket=name)",
    ]


def prefect() -> Command:
    """Prepare the Prefect server, which migrates its database itself."""
    os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database("asyncpg", "prefect")
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = login("prefect_password")
    if os.environ["MESSAGES"] == "redis":  # several servers share what one keeps in its memory
        os.environ.update(
            PREFECT_REDIS_MESSAGING_PASSWORD=secret("redis_password"),
            PREFECT_MESSAGING_BROKER="prefect_redis.messaging",
            PREFECT_MESSAGING_CACHE="prefect_redis.messaging",
            PREFECT_SERVER_EVENTS_CAUSAL_ORDERING="prefect_redis.ordering",
            PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE="prefect_redis.lease_storage",
            PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE="prefect_redis.cleanup_queue",
        )
    return ["-m", "prefect", "server", "start", "--host", "0.0.0.0"]


def prefect_api() -> Command:
    """Prepare a further server of Prefect's API, without the services of the first one."""
    os.environ["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] = "false"
    return [*prefect(), "--no-services"]


def deploy() -> Command:
    """Prepare the deployment of every flow: their work pool is created first."""
    connect()
    from flows.prefect_server import PrefectServer

    server = PrefectServer.from_environment()
    server.create_work_pool()
    server.create_crash_automation()
    show_runs()
    return ["-m", "prefect", "--no-prompt", "deploy", "--all"]


def show_runs() -> None:
    """Create the experiments of all studies in MLflow, and print where their charts are."""
    from neuroscope.reporting.experiments import runs_pages
    from neuroscope.reporting.tracking_server import browser_address
    from neuroscope.studies.study import STUDIES

    uri = os.environ["MLFLOW_TRACKING_URI"]
    for kind, address in runs_pages(browser_address(uri), uri, [*STUDIES, "monitor"]).items():
        print(f"Runs of {kind}: {address}", flush=True)


def worker() -> Command:
    """Prepare a worker, which runs flows in processes of its container."""
    connect()
    from flows.environment import LOG_LINES
    from flows.prefect_server import WORK_POOL

    os.environ.update(LOG_LINES)
    options = ["--pool", WORK_POOL, "--type", "process", "--limit", os.environ["FLOWS_AT_ONCE"]]
    return ["-m", "prefect", "worker", "start", *options, "--with-healthcheck"]


def health() -> Command:
    """Prepare the server of the health of the whole stack."""
    connect()
    return ["-m", "flows.health", "--host", "0.0.0.0"]


def ui() -> Command:
    """Prepare the interface, which asks for a token and serves only the models that are named."""
    connect()
    os.environ["NEUROSCOPE_UI_TOKEN"] = secret("ui_token")
    models = [part for name in os.environ["UI_MODELS"].split() for part in ("--model", name)]
    hosts = ["--allowed-host", os.environ["UI_HOST"], "--allowed-host", "ui"]
    return ["-m", "flows.cli", "ui", "--host", "0.0.0.0", *models, *hosts]


def connect() -> None:
    """Give clients the passwords of MLflow and Prefect, and end with a message if one is wrong."""
    use_mlflow_login()
    os.environ["PREFECT_API_AUTH_STRING"] = login("prefect_password")
    mlflow, prefect = os.environ["MLFLOW_TRACKING_URI"], os.environ["PREFECT_API_URL"]
    check_password(f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1", "mlflow_password")
    check_password(f"{prefect}/admin/version", "prefect_password")


def check_password(address: str, password: str) -> None:
    """End with a message if a server refuses a password; it may not be started yet."""
    request = urllib.request.Request(address, headers=authorization(password))
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            sys.exit(
                f"{address} refuses the password in {SECRETS / password} (status {error.code});"
                " put the server's password there, or restart the server if you changed it"
            )
    except (urllib.error.URLError, OSError):
        return


def use_mlflow_login() -> None:
    """Give a client the password of MLflow."""
    os.environ["MLFLOW_TRACKING_USERNAME"] = ADMIN
    os.environ["MLFLOW_TRACKING_PASSWORD"] = secret("mlflow_password")


def login(name: str) -> str:
    """Return name and password; end with a message if Prefect would answer with errors."""
    password = secret(name)
    if not password.isascii():
        sys.exit(f"{SECRETS / name} has characters that are not ASCII; choose another password")
    return f"{ADMIN}:{password}"


def check_mlflow() -> None:
    """Search experiments, under the name of the service, as clients do."""
    ask("http://mlflow:5000/api/2.0/mlflow/experiments/search?max_results=1", "mlflow_password")


def check_prefect() -> None:
    """Read work pools, under the name of the service, as clients do."""
    name = os.environ.get("SERVICE", "prefect")
    ask(f"http://{name}:4200/api/work_pools/filter", "prefect_password", {"limit": 1})


def check_health() -> None:
    """Ask for the health of the stack, whatever it is: the service itself has to answer."""
    ask("http://health:5080/alive")


def check_ui() -> None:
    """Ask the interface whether it answers."""
    ask("http://ui:5090/api/health")


def check_worker() -> None:
    """Ask the worker whether it still polls Prefect."""
    ask(f"http://127.0.0.1:{WORKER_PORT}/health")


def authorization(password: str) -> dict[str, str]:
    """Return the header of a login."""
    return {"Authorization": f"Basic {base64.b64encode(login(password).encode()).decode()}"}


def ask(address: str, password: str = "", document: object = None) -> None:
    """Send a request; end with a message if it is refused or not answered.

    Args:
        address: address, without a login.
        password: secret for the login, if one is needed.
        document: JSON document to post; by default, the request is a GET.
    """
    headers = {"Content-Type": "application/json"}
    if password:
        headers |= authorization(password)
    data = None if document is None else json.dumps(document).encode()
    try:
        urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=10).close()
    except (urllib.error.URLError, OSError) as error:
        sys.exit(f"{address}: {error}")


RUN: dict[str, Callable[[], Command]] = {
    "mlflow": mlflow,
    "bucket": bucket,
    "remove-deleted": remove_deleted,
    "prefect": prefect,
    "prefect-api": prefect_api,
    "deploy": deploy,
    "worker": worker,
    "health": health,
    "ui": ui,
}
CHECK: dict[str, Callable[[], None]] = {
    "mlflow": check_mlflow,
    "prefect": check_prefect,
    "prefect-api": check_prefect,
    "worker": check_worker,
    "health": check_health,
    "ui": check_ui,
}


def main() -> None:
    action, name = sys.argv[1:3]
    if action == "check":
        CHECK[name]()
    else:
        os.execv(sys.executable, [sys.executable, *RUN[name]()])


if __name__ == "__main__":
    main()
