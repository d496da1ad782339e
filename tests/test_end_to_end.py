"""The whole stack: a comparison started in the Prefect UI and looked at in MLflow, by browser."""

import os
import shutil
import signal
import socket
import time
from contextlib import closing
from pathlib import Path

import httpx
import prefect_ui
import pytest
from mlflow import MlflowClient
from playwright.sync_api import sync_playwright

from flows.stack import Stack
from neuroscope.reporting.tracking import FLOW_RUN_TAG, PROCESS_TAG

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()


def free_port():
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROSCOPE_HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PREFECT_API_URL", "PREFECT_HOME"):
            patch.delenv(name, raising=False)
        with Stack(free_port(), free_port()) as running:
            yield running.addresses


@pytest.fixture(scope="module")
def page():
    if CHROMIUM is None:
        pytest.skip("no browser: install one with `make chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": 1280, "height": 1000})
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()


def start(stack, **parameters):
    """Starts the deployment `compare` as the UI does; gives the flow run's id."""
    id = stack.deployments["compare"].rsplit("/", 1)[1]
    address = f"{stack.prefect}/api/deployments/{id}/create_flow_run"
    return post(address, {"parameters": parameters}).json()["id"]


def post(address, body):
    """Asks Prefect, again while it answers 503 because SQLite is busy."""

    def answer():
        found = httpx.post(address, json=body, timeout=60)
        return None if found.status_code == 503 else found.raise_for_status()

    return wait_for(answer)


def wait_for(found, limit=120):
    """What `found` gives once it gives anything."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.2)
    raise AssertionError(f"waited {limit} seconds in vain")


def finished(stack, flow_run):
    """The flow run's final state, once it has one."""
    final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def state():
        found = httpx.get(f"{stack.prefect}/api/flow_runs/{flow_run}").json()["state_type"]
        return found if found in final else None

    return wait_for(state)


def mlflow_runs(stack, flow_run):
    """The MLflow runs of a flow run."""
    client = MlflowClient(tracking_uri=stack.mlflow)
    ids = [one.experiment_id for one in client.search_experiments()]
    return client.search_runs(ids, filter_string=f"tags.`{FLOW_RUN_TAG}` = '{flow_run}'")


def closed(stack, flow_run):
    """The status of all MLflow runs of a flow run, once none is open."""

    def states():
        found = {run.info.status for run in mlflow_runs(stack, flow_run)}
        return found if "RUNNING" not in found else None

    return wait_for(states)


def test_a_comparison_from_the_form_to_the_run(stack, page, tmp_path):
    prefect_ui.open_run_form(page, stack.prefect, "compare")
    prefect_ui.fill_template(page, "The nurse is a {}.", ["man", "woman"])
    prefect_ui.fill_text(page, "layers", "0-1")
    prefect_ui.choose(page, "site", "mlp_act")
    prefect_ui.fill_text(page, "note", "asked in the browser")
    flow_run = prefect_ui.submit(page)
    assert finished(stack, flow_run) == "COMPLETED"

    tasks = ["extract minilm", "compare minilm mlp_act.0", "compare minilm mlp_act.1"]
    prefect_ui.open_task_runs(page, stack.prefect, flow_run, tasks)

    (run,) = mlflow_runs(stack, flow_run)
    assert run.info.status == "FINISHED"
    prefect_ui.open_artifact(page, stack.prefect, flow_run, "comparison")
    page.get_by_role("cell", name="man vs woman").wait_for()  # one, or this fails
    link = page.get_by_role("link", name="MLflow run").get_attribute("href")
    assert link.startswith(stack.mlflow) and link.endswith(run.info.run_id)

    page.goto(link)
    page.get_by_text("asked in the browser").first.wait_for()
    back = page.get_by_role("link", name="Prefect flow run").get_attribute("href")
    assert back.startswith(stack.prefect) and flow_run in back
    assert run.data.params["site"] == "mlp_act" and run.data.params["layers"] == "0,1"
    metrics = run.data.metrics
    assert 0 < metrics["pairs aligned cosine/man vs woman"] < 1

    files = MlflowClient(tracking_uri=stack.mlflow).download_artifacts(
        run.info.run_id, "plots", tmp_path
    )
    assert (Path(files) / "by_layer.png").read_bytes().startswith(b"\x89PNG")
    page.goto(f"{link}/artifacts/report.html")
    page.frame_locator("iframe").get_by_text("How alike are the activations").first.wait_for()


def test_a_flow_that_fails_leaves_failed_runs(stack):
    flow_run = start(stack, prompts={"texts": ["cat " * 600, "a dog"]}, site="resid_post")
    assert finished(stack, flow_run) == "FAILED"
    assert closed(stack, flow_run) == {"FAILED"}


def test_a_flow_that_is_cancelled_leaves_killed_runs(stack):
    flow_run = start(stack, site="mlp_out")
    wait_for(lambda: mlflow_runs(stack, flow_run))
    state = {"state": {"type": "CANCELLING"}, "force": False}
    post(f"{stack.prefect}/api/flow_runs/{flow_run}/set_state", state)
    assert finished(stack, flow_run) == "CANCELLED"
    assert "KILLED" in closed(stack, flow_run)


def test_a_flow_that_is_killed_leaves_killed_runs(stack):
    flow_run = start(stack, site="attn_out")
    (run, *_) = wait_for(lambda: mlflow_runs(stack, flow_run))
    os.kill(int(run.data.tags[PROCESS_TAG].split()[-2]), signal.SIGKILL)
    assert finished(stack, flow_run) == "CRASHED"
    assert "KILLED" in closed(stack, flow_run)
