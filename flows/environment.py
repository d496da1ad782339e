"""Settings that MLflow and Prefect read from the environment, made before they are imported."""

import contextlib
import os
from collections.abc import Iterator, Mapping

from neuroscope.errors import StackError
from neuroscope.home import home

NO_TELEMETRY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "true",
}


def prepare_environment() -> None:
    """Turn telemetry off and put the embedded Prefect's database into the home.

    A server named by `PREFECT_API_URL`, or a `PREFECT_HOME` or profile of the user's own, stays in
    use.
    """
    os.environ.update(NO_TELEMETRY)
    own = ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE")
    if not any(os.environ.get(name) for name in own):
        os.environ["PREFECT_HOME"] = str(home() / "prefect")
    # the flow's own messages go to Prefect; the terminal shows a bar and one clear error
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Give this process another environment for the duration of the block."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def check_prefect() -> None:
    """Check that the server named by `PREFECT_API_URL`, if any, responds.

    Raises:
        StackError: it does not.
    """
    import httpx

    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return
    try:
        httpx.get(f"{address.rstrip('/')}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        raise StackError(
            f"the Prefect server {address} cannot be reached ({error})",
            remedy="start it, or unset PREFECT_API_URL to use the embedded one",
        ) from error
