"""Steps as task runs, and the requests of `neuroscope up`, with a real Prefect server."""

import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from drifting import changed
from layered import labelled_prompts
from models import make_model
from prefect import flow
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.settings import get_current_settings
from prefect.states import Running
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.testing.utilities import prefect_test_harness
from registered import Register
from ruamel.yaml import YAML
from stored import add_to_store

from flows.executor import PrefectExecutor
from flows.monitor import CHECKED, monitor
from flows.prefect_server import WORK_POOL, PrefectServer
from flows.prune import prune
from flows.stack import stack_environment
from flows.started import StartedFlows
from flows.study_flow import run_name, study_form
from neuroscope.errors import ExperimentError, Option, PromptError, StackError
from neuroscope.prompt_files import write_prompts
from neuroscope.reporting.tracking_server import embedded_database
from neuroscope.studies.compare.experiment import CompareExperiment, compare_experiment
from neuroscope.studies.steps import Step

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server():
    with prefect_test_harness(server_startup_timeout=120):
        address = get_current_settings().api.url.removesuffix("/api")
        yield PrefectServer(address, stack_environment("", address))


def run_in_flow(function, name="add {2}"):
    """Run one step in a flow; return its result, or raise its error."""

    @flow
    def run():
        return PrefectExecutor().submit(Step(name, function, ([1, 2],))).result()

    return run()


def test_a_step_becomes_a_task_run_with_its_name(server):
    assert run_in_flow(sum) == 3
    with get_client(sync_client=True) as client:
        (task_run,) = [run for run in client.read_task_runs() if run.name == "add {2}"]
    assert task_run.state.is_completed()


def test_a_step_that_fails_is_retried_once(server):
    attempts = []

    def fail_once(values):
        attempts.append(values)
        if len(attempts) == 1:
            raise OSError("temporary fault")
        return sum(values)

    assert run_in_flow(fail_once) == 3
    assert len(attempts) == 2


def test_an_error_for_the_user_is_not_retried(server):
    attempts = []

    def refuse(values):
        attempts.append(values)
        raise PromptError("too long")

    with pytest.raises(PromptError):
        run_in_flow(refuse)
    assert len(attempts) == 1


def test_a_flow_that_ends_does_not_wait_for_its_steps(server):
    released = threading.Event()

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def run():
        with PrefectExecutor() as executor:
            executor.submit(Step("first", released.wait, ()))
            executor.submit(Step("second", released.wait, ()))
            raise PromptError("the flow ends")

    started = time.monotonic()
    assert isinstance(run(return_state=True).result(raise_on_failure=False), PromptError)
    assert time.monotonic() - started < 20
    released.set()


def test_an_error_for_the_user_is_the_state_of_the_flow_without_a_traceback(server, caplog):
    @study_form
    def compare(prompts: list[str], truncate: bool = False) -> CompareExperiment:
        options = [Option("truncate", True, "cut it"), Option("head", True, "load it")]
        raise PromptError(f"{prompts[0]} is too long", options=options)

    with caplog.at_level(logging.INFO, "prefect"):
        caplog.clear()
        state = compare(["cat"], return_state=True)
        with pytest.raises(PromptError):
            compare(["cat"])
    assert state.is_failed() and state.message == "cat is too long; cut it (truncate = True)"
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    "models, name",
    [
        (["minilm"], "minilm man-vs-woman"),
        (["minilm", "/a/{b}"], "minilm, {b} man-vs-woman"),
        (["a", "b", "c", "d"], "4 models man-vs-woman"),
    ],
)
def test_a_flow_run_is_named_after_its_models_and_its_experiment(models, name):
    group = {"template": "a {}", "fills": ["man", "woman"]}
    assert run_name(compare_experiment(models, group)) == name


def test_the_work_pool_is_created_once(server):
    assert server.responds()
    server.create_work_pool()
    server.create_work_pool()
    with get_client(sync_client=True) as client:
        assert client.read_work_pool(WORK_POOL).type == "process"


def test_a_server_that_does_not_respond_is_reported():
    with pytest.raises(StackError, match=r"http://127\.0\.0\.1:9 "):
        PrefectServer("http://127.0.0.1:9", dict(os.environ)).create_work_pool()


def test_a_worker_is_present_since_its_last_heartbeat(server):
    server.create_work_pool()
    before = datetime.now(UTC)
    assert not server.has_worker(since=before)
    with get_client(sync_client=True) as client:
        client.send_worker_heartbeat(WORK_POOL, "tester", heartbeat_interval_seconds=30)
    assert server.has_worker(since=before)
    assert not server.has_worker(since=before + timedelta(hours=1))


@pytest.fixture
def deployment(server):
    """Return the id of a deployment in the work pool."""

    @flow
    def compare():
        pass

    server.create_work_pool()
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(compare)
        return client.create_deployment(flow_id, "compare", work_pool_name=WORK_POOL)


def test_a_deployment_has_a_page_once_it_is_ready(server, deployment):
    assert server.deployment_pages() == {}
    with get_client(sync_client=True) as client:  # as a worker does
        client.get_scheduled_flow_runs_for_work_pool(WORK_POOL)
    deadline = time.monotonic() + 30
    while not (pages := server.deployment_pages()) and time.monotonic() < deadline:
        time.sleep(0.1)  # the server updates the status after its response
    assert pages == {"compare": f"{server.address}/deployments/deployment/{deployment}/run"}


def test_the_interface_starts_a_flow_follows_and_cancels_it(server, deployment):
    with get_client(sync_client=True) as client:  # as a worker does
        client.get_scheduled_flow_runs_for_work_pool(WORK_POOL)
    flows = StartedFlows(server)
    deadline = time.monotonic() + 30
    while not (listed := flows.deployments()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [(own.name, own.page) for own in listed] == list(server.deployment_pages().items())
    id = flows.start("compare", {})
    state = flows.flow_state(id)
    assert (state.state, state.final, state.done, state.total) == ("Scheduled", False, 0, 0)
    assert state.page == f"{server.address}/runs/flow-run/{id}"
    flows.cancel(id)
    assert flows.flow_state(id).state in ("Cancelling", "Cancelled")
    with pytest.raises(ExperimentError, match="choose from compare"):
        flows.start("compere", {})
    with pytest.raises(ExperimentError, match="not the id of a flow run"):
        flows.flow_state("x")
    with pytest.raises(ExperimentError, match="there is no flow run"):
        flows.flow_state("00000000-0000-0000-0000-000000000000")


def test_flow_runs_left_open_by_a_killed_worker_are_marked_as_crashed(server, deployment):
    with get_client(sync_client=True) as client:
        running = client.create_flow_run_from_deployment(deployment, state=Running())
        scheduled = client.create_flow_run_from_deployment(deployment)
        server.crash_unfinished_flow_runs()
        assert client.read_flow_run(running.id).state.is_crashed()
        assert client.read_flow_run(scheduled.id).state.is_scheduled()


def test_the_profile_of_the_user_is_ignored(tmp_path, monkeypatch):
    profile = '[profiles.own]\nPREFECT_CLIENT_CUSTOM_HEADERS = \'{"X-Token": "secret"}\'\n'
    (tmp_path / "profiles.toml").write_text(f'active = "own"\n{profile}')
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    code = """
        from flows.prefect_server import PrefectServer
        from flows.stack import stack_environment
        server = PrefectServer("http://127.0.0.1:9", stack_environment("", "http://127.0.0.1:9"))
        with server._client() as client:
            print(client.api_url, "x-token" in client._client.headers)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["http://127.0.0.1:9/api/", "False"]


@pytest.fixture
def news(server, database, monkeypatch, tmp_path):
    """Register two versions of a model, of which the second has drifted; return the prompts."""
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts below the working directory
    base = make_model("bert", tmp_path / "base", layers=2)
    register = Register(embedded_database(database.parent))
    for folder in (base, changed(base, 2.0)):
        register.point_to(str(folder), "News_1")
    register.client.set_registered_model_alias("News_1", "champion", "1")
    prompts = tmp_path / "prompts.jsonl"
    write_prompts(prompts, labelled_prompts())
    return register, prompts


def test_a_monitor_emits_an_event_and_an_artifact_per_check(server, news):
    register, prompts = news
    form = {"prompts": {"file": str(prompts)}, "alpha": 0.4, "margin": 0.001}
    assert monitor(name="News_1", **form, return_state=True).is_completed()
    with get_client(sync_client=True) as client:
        (artifact,) = [each for each in client.read_artifacts() if each.key == "drift-news-1"]
        event = waited_for(lambda: checked_events(client), 30)
    assert "drifted" in artifact.data and artifact.description == "version 2 drifted"
    assert event["resource"]["prefect.resource.id"] == "mlflow.model-version.News_1.2"
    assert event["payload"]["verdict"] == "drifted" and event["payload"]["base"] == 1
    register.point_to("/nowhere", "News_1")
    failed = monitor(name="News_1", **form, return_state=True)
    assert failed.is_failed() and "version 3" in failed.message


def test_the_command_emits_the_event_too(server, news, run_command, monkeypatch):
    register, prompts = news
    register.client.rename_registered_model("News_1", "News_2")
    monkeypatch.setenv("PREFECT_API_URL", f"{server.address}/api")
    settings = ["--prompts", prompts, "--alpha", 0.4, "--margin", 0.001]
    code, printed = run_command("monitor", "News_2", *settings)
    assert code == 1 and "Report, version 2: " in printed.out
    with get_client(sync_client=True) as client:
        event = waited_for(lambda: checked_events(client, "News_2"), 30)
    assert event["payload"]["verdict"] == "drifted"


def checked_events(client, name="News_1"):
    """Return the newest event of a check of a model, or None if it has not arrived yet."""
    answer = client._client.post("/events/filter", json={"filter": {"event": {"name": [CHECKED]}}})
    events = [event for event in answer.json()["events"] if event["payload"]["name"] == name]
    return events[0] if events else None


def waited_for(value_of, seconds):
    """Return the first value that is not None, within a time."""
    deadline = time.monotonic() + seconds
    while (value := value_of()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return value


def test_the_automations_of_the_docs_react_to_a_check(server):
    blocks = re.findall(r"```yaml\n(name: .*?)```", (ROOT / "docs/drift.md").read_text(), re.S)
    notify, block = (YAML(typ="safe").load(text) for text in blocks)
    Automation.model_validate(notify)
    flow_id = server_flow()
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(flow_id, "promote")
    block["actions"][0]["deployment_id"] = str(deployment)
    Automation.model_validate(block).create()
    resource = {
        "prefect.resource.id": "mlflow.model-version.news.4",
        "neuroscope.verdict": "drifted",
    }

    def paused():
        emit_event(CHECKED, resource=resource)  # the server may not know the automation at first
        time.sleep(1)
        return client.read_deployment(deployment).paused or None

    with get_client(sync_client=True) as client:
        waited_for(paused, 60)


def server_flow():
    """Create a flow on the server, and return its id."""
    with get_client(sync_client=True) as client:
        return client.create_flow(flow(lambda: None, name="promote"))


def test_the_monitor_is_deployed_so_that_a_second_one_is_cancelled():
    project = YAML(typ="safe").load((ROOT / "prefect.yaml").read_text())
    (deployment,) = [each for each in project["deployments"] if each["name"] == "monitor"]
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert deployment["schedules"][0]["cron"]


def test_the_flow_prune_removes_what_was_not_used(server, home):
    old, new = add_to_store("max", days=99), add_to_store("mean", days=2)
    assert prune(days=90, return_state=True).is_completed()
    assert new.exists() and not old.exists()
