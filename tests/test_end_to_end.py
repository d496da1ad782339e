"""The complete stack, by browser: studies started in Prefect's interface and seen in MLflow."""

import os
import shutil
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import prefect_ui
import pytest
from mlflow import MlflowClient
from playwright.sync_api import sync_playwright

from flows.stack import Stack
from neuroscope.reporting.tracking import FLOW_RUN_TAG, PROCESS_TAG

BROWSERS = ("chromium", "chromium-browser")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()


def free_ports(*names):
    """Return a free port for each name."""
    with ExitStack() as open_sockets:
        sockets = {name: open_sockets.enter_context(socket.socket()) for name in names}
        for unbound in sockets.values():
            unbound.bind(("127.0.0.1", 0))
        return {name: bound.getsockname()[1] for name, bound in sockets.items()}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROSCOPE_HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PREFECT_API_URL", "PREFECT_HOME"):
            patch.delenv(name, raising=False)
        with Stack(free_ports("mlflow", "prefect")) as running:
            yield running.addresses()


def find_browser(names):
    """Return the path of a browser; without one, skip the test, or fail it in CI."""
    for name in names:
        if path := shutil.which(name):
            return path
    missing = pytest.fail if os.environ.get("CI") else pytest.skip
    missing("no browser; install one with `make chromium`")


@pytest.fixture(scope="module")
def page():
    path = find_browser(BROWSERS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def test_a_missing_browser_fails_only_in_ci(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception):
        find_browser(())
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception):
        find_browser(())


def start_flow_run(stack, deployment, **parameters):
    """Start a deployment as the interface does; return the id of the flow run."""
    id = stack.deployments[deployment].rsplit("/", 1)[1]
    address = f"{stack.servers['Prefect']}/api/deployments/{id}/create_flow_run"
    return post(address, {"parameters": parameters}).json()["id"]


def post(address, body):
    """Post to Prefect; try again while it answers 503 because SQLite is busy."""

    def attempt():
        response = httpx.post(address, json=body, timeout=60)
        return None if response.status_code == 503 else response.raise_for_status()

    return wait_for(attempt)


def wait_for(ready, limit=120):
    """Call `ready` until its result is true; return that result."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if result := ready():
            return result
        time.sleep(0.2)
    raise AssertionError(f"nothing after {limit} seconds")


def final_state(stack, flow_run):
    """Return the final state of a flow run, once it has one."""
    final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def state():
        flow = httpx.get(f"{stack.servers['Prefect']}/api/flow_runs/{flow_run}").json()
        return flow["state_type"] if flow["state_type"] in final else None

    return wait_for(state)


def mlflow_runs(stack, flow_run):
    """Return the MLflow runs of a flow run."""
    client = MlflowClient(tracking_uri=stack.servers["MLflow"])
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(ids, filter_string=f"tags.`{FLOW_RUN_TAG}` = '{flow_run}'")


def final_statuses(stack, flow_run):
    """Return the statuses of the MLflow runs of a flow run, once none is open."""

    def statuses():
        seen = {run.info.status for run in mlflow_runs(stack, flow_run)}
        return seen if "RUNNING" not in seen else None

    return wait_for(statuses)


def test_a_comparison_started_from_the_form_is_recorded(stack, page, tmp_path):
    mlflow, prefect = stack.servers["MLflow"], stack.servers["Prefect"]
    prefect_ui.open_run_form(page, prefect, "compare")
    prefect_ui.fill_template(page, "The nurse is a {}.", ["man", "woman"])
    prefect_ui.fill_text(page, "layers", "0-1")
    prefect_ui.choose(page, "site", "mlp_act")
    prefect_ui.fill_text(page, "note", "asked in the browser")
    flow_run = prefect_ui.submit(page)
    assert final_state(stack, flow_run) == "COMPLETED"

    tasks = ["extract minilm", "compare minilm mlp_act.0", "compare minilm mlp_act.1"]
    prefect_ui.open_task_runs(page, prefect, flow_run, tasks)

    (run,) = mlflow_runs(stack, flow_run)
    assert run.info.status == "FINISHED"
    prefect_ui.open_artifact(page, prefect, flow_run, "compare")
    page.get_by_text("man vs woman", exact=True).wait_for()  # exactly one, or this fails
    link = page.get_by_role("link", name="MLflow run").get_attribute("href")
    assert link.startswith(mlflow) and link.endswith(run.info.run_id)

    page.goto(link)
    page.get_by_text("asked in the browser").first.wait_for()
    back = page.get_by_role("link", name="Prefect flow run").get_attribute("href")
    assert back.startswith(prefect) and flow_run in back
    assert run.data.params["site"] == "mlp_act" and run.data.params["layers"] == "0,1"
    metrics = run.data.metrics
    assert 0 < metrics["pairs aligned cosine/man vs woman"] < 1

    files = MlflowClient(tracking_uri=mlflow).download_artifacts(run.info.run_id, "plots", tmp_path)
    assert (Path(files) / "by_layer.png").read_bytes().startswith(b"\x89PNG")
    page.goto(f"{link}/artifacts/report.html")
    page.frame_locator("iframe").get_by_text("How alike are the activations").first.wait_for()


def test_a_study_of_layers_started_from_the_form_is_recorded(stack, page):
    prefect_ui.open_run_form(page, stack.servers["Prefect"], "layers")
    prefect_ui.choose(page, "site", "mlp_act")
    prefect_ui.fill_text(page, "note", "asked in the browser")
    flow_run = prefect_ui.submit(page)
    assert final_state(stack, flow_run) == "COMPLETED"
    (run,) = mlflow_runs(stack, flow_run)
    assert run.info.status == "FINISHED" and run.data.tags["neuroscope.kind"] == "layers"
    prefect_ui.open_artifact(page, stack.servers["Prefect"], flow_run, "layers")
    page.get_by_role("columnheader", name="topic").first.wait_for()


def test_a_flow_that_fails_leaves_failed_runs(stack):
    flow_run = start_flow_run(
        stack, "compare", prompts={"texts": ["cat " * 600, "a dog"]}, site="resid_post"
    )
    assert final_state(stack, flow_run) == "FAILED"
    assert final_statuses(stack, flow_run) == {"FAILED"}


def test_a_flow_that_is_cancelled_leaves_killed_runs(stack):
    flow_run = start_flow_run(stack, "compare", site="mlp_out")
    wait_for(lambda: mlflow_runs(stack, flow_run))
    state = {"state": {"type": "CANCELLING"}, "force": False}
    post(f"{stack.servers['Prefect']}/api/flow_runs/{flow_run}/set_state", state)
    assert final_state(stack, flow_run) == "CANCELLED"
    assert "KILLED" in final_statuses(stack, flow_run)


def test_a_flow_that_is_killed_leaves_killed_runs(stack):
    flow_run = start_flow_run(stack, "compare", site="attn_out")
    (run, *_) = wait_for(lambda: mlflow_runs(stack, flow_run))
    os.kill(int(run.data.tags[PROCESS_TAG].split()[-2]), signal.SIGKILL)
    assert final_state(stack, flow_run) == "CRASHED"
    assert "KILLED" in final_statuses(stack, flow_run)
