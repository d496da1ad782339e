"""No request that the OpenAPI description allows, or nearly allows, makes the server fail."""

from collections import defaultdict
from contextlib import suppress

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from test_web_views import Flows

from neuroscope.web.app import create_app
from neuroscope.web.settings import Limits, Settings

pytestmark = pytest.mark.slow
OWN = {"Host": "127.0.0.1"}
LIMITS = Limits(requests_per_minute=10**9)
REACHED = {
    "GET /api/probe/{id}",
    "GET /api/probe/{id}/values",
    "GET /api/sessions/{run_id}",
    "GET /api/sessions/{run_id}/export",
    "GET /api/flow-runs/{id}",
    "DELETE /api/flow-runs/{id}",
}
"""Operations that answer some of the requests that the description allows."""
EXAMPLES = 20  # of each operation and mode


@pytest.fixture
def operations(database, family_folder):
    """Return every operation of the API of a server with a tiny model, and ids that exist."""
    folder = str(family_folder("bert"))
    settings = Settings(models=(folder,), default_model=folder, device="cpu", limits=LIMITS)
    app = create_app(settings, Flows())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        body = {"prompts": ["the cat sits .", "the dog sits ."]}
        probe = client.post("/api/probe", json=body).json()["id"]
        watch = ["mlp_act.0.1"]
        run = client.post("/api/sessions", json={"id": probe, "watch": watch}).json()["run_id"]
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=OWN)
    ids = {"/api/probe/": probe, "/api/sessions/": run, "/api/flow-runs/": "id"}
    return [operation.ok() for operation in schema.get_all_operations()], ids


def sending(operation, ids, statuses):
    """Return a function that sends a request of an operation and notes the status of the answer."""
    known = [id for prefix, id in ids.items() if operation.path.startswith(prefix)]

    def send(case):
        for name in case.path_parameters.keys() & {"id", "run_id"} if known else ():
            case.path_parameters[name] = known[0]
        answer = case.call(headers=OWN)
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)
        if answer.status_code >= 400:
            assert answer.json().keys() == {"error", "remedy"}, case.as_curl_command()
        statuses[operation.label].add(answer.status_code)

    return send


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_makes_the_server_fail(operations, mode):
    statuses = defaultdict(set)
    listed, ids = operations
    quietly = settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    for operation in listed:
        cases = given(case=operation.as_strategy(generation_mode=mode))
        with suppress(Unsatisfiable):  # an operation for which every request is valid
            quietly(cases(sending(operation, ids, statuses)))()
    if mode is GenerationMode.POSITIVE:
        reached = {label for label, own in statuses.items() if own & {200, 204}}
        assert reached >= REACHED, REACHED - reached
    else:
        assert {code for own in statuses.values() for code in own} & {400, 422}
