"""The complete stack, by browser: studies started in Prefect's interface and seen in MLflow."""

import os
import signal
import time
from pathlib import Path

import httpx
import prefect_ui
import pytest
from browsers import find_browser, free_ports, open_page, wait_for
from mlflow import MlflowClient
from models import make_model

from flows.stack import REPOSITORY, Stack
from neuroscope.reporting.tracking import FLOW_RUN_TAG, PROCESS_TAG


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROSCOPE_HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PREFECT_API_URL", "PREFECT_HOME"):
            patch.delenv(name, raising=False)
        with pytest.MonkeyPatch.context() as inner:
            inner.delenv("PYTEST_CURRENT_TEST")  # with it, MLflow never sends telemetry
            stack = Stack(free_ports("mlflow", "prefect", "health", "ui"))
        with stack as running:
            yield running.addresses()


@pytest.fixture(scope="module")
def page():
    with open_page() as page:
        yield page


def test_a_missing_browser_fails_only_in_ci(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception):
        find_browser(())
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception):
        find_browser(())


def start_flow_run(stack, deployment, **parameters):
    """Start a deployment as the interface does; return the id of the flow run."""
    id = stack.deployments[deployment].split("/")[-2]
    address = f"{stack.servers['Prefect']}/api/deployments/{id}/create_flow_run"
    return post(address, {"parameters": parameters}).json()["id"]


def post(address, body):
    """Post to Prefect; try again while it answers 503 because SQLite is busy."""

    def attempt():
        response = httpx.post(address, json=body, timeout=60)
        return None if response.status_code == 503 else response.raise_for_status()

    return wait_for(attempt)


def final_state(stack, flow_run):
    """Return the final state of a flow run, once it has one."""
    final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def state():
        flow = read_flow_run(stack, flow_run)
        return flow["state_type"] if flow["state_type"] in final else None

    return wait_for(state)


def read_flow_run(stack, flow_run):
    """Return what Prefect knows about a flow run."""
    return httpx.get(f"{stack.servers['Prefect']}/api/flow_runs/{flow_run}", timeout=60).json()


def logged(stack, flow_run, last):
    """Return the log of a flow run, once it contains a text, which Prefect records with a delay."""

    def messages():
        body = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "limit": 200}
        records = post(f"{stack.servers['Prefect']}/api/logs/filter", body).json()
        lines = [record["message"] for record in records]
        return lines if any(last in line for line in lines) else None

    return wait_for(messages)


def comparisons(stack, flow_run):
    """Return the task runs of a flow run that compare prompts."""
    body = {"flow_runs": {"id": {"any_": [flow_run]}}, "task_runs": {"name": {"like_": "compare"}}}
    return post(f"{stack.servers['Prefect']}/api/task_runs/filter", body).json()


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


def test_the_health_of_all_services_is_one_page(stack):
    answer = httpx.get(stack.servers["Health"], timeout=60)
    assert answer.status_code == 200 and answer.json()["status"] == "ok", answer.text


def test_a_comparison_started_from_the_interface_is_followed_to_its_run(stack, page):
    page.goto(f"{stack.servers['Interface']}/flows")
    form = page.locator("section", has=page.get_by_role("heading", name="compare", exact=True))
    form.locator("summary").click()
    form.get_by_label("prompts").fill("the cat is here\nthe dog is here")
    form.get_by_label("plot_layers").fill("1")
    form.get_by_role("button", name="Start compare").click()
    page.get_by_text("Completed").wait_for(timeout=180_000)
    flow_run = page.url.rpartition("/")[2]
    assert final_state(stack, flow_run) == "COMPLETED"
    (run,) = mlflow_runs(stack, flow_run)
    link = page.get_by_role("link", name="in MLflow").get_attribute("href")
    assert link.startswith(stack.servers["MLflow"]) and run.info.run_id in link
    in_prefect = page.get_by_role("link", name="Page in Prefect").get_attribute("href")
    assert in_prefect == f"{stack.servers['Prefect']}/runs/flow-run/{flow_run}"


def test_a_comparison_started_from_the_form_is_recorded(stack, page, tmp_path):
    mlflow, prefect = stack.servers["MLflow"], stack.servers["Prefect"]
    prefect_ui.open_run_form(page, stack.deployments["compare"])
    prefect_ui.fill_text(page, "template (Optional)", "The nurse is a {}.")
    prefect_ui.fill_list(page, "prompts (Optional)", ["man", "woman"])
    prefect_ui.fill_text(page, "layers (Optional)", "0-1")
    prefect_ui.fill_text(page, "plot_layers (Optional)", "1")
    prefect_ui.fill_text(page, "site (Optional)", "mlp_act")
    prefect_ui.fill_text(page, "note (Optional)", "asked in the browser")
    flow_run = prefect_ui.submit(page)
    assert final_state(stack, flow_run) == "COMPLETED"
    assert read_flow_run(stack, flow_run)["name"] == "minilm man-vs-woman"

    (run,) = mlflow_runs(stack, flow_run)
    assert run.info.status == "FINISHED"
    prefect_ui.open_tab(page, prefect, flow_run, "Task Runs")
    page.get_by_text("compare minilm mlp_act.1", exact=True).first.wait_for()
    prefect_ui.open_tab(page, prefect, flow_run, "Logs")
    page.locator(f"a[href*='{run.info.run_id}']").first.wait_for()
    prefect_ui.open_artifact(page, prefect, flow_run, run.info.run_name)
    page.get_by_text("minilm, mlp_act: man vs woman", exact=True).wait_for()  # exactly one
    figure = page.locator("img[src^='data:image/png']")
    assert figure.evaluate("figure => figure.naturalWidth") > 500
    link = page.get_by_role("link", name="MLflow run").first.get_attribute("href")
    assert link.startswith(mlflow) and run.info.run_id in link

    page.goto(link)
    page.get_by_text("asked in the browser").first.wait_for()
    back = page.get_by_role("link", name="Prefect flow run").get_attribute("href")
    assert back == f"{prefect}/runs/flow-run/{flow_run}"
    assert run.data.params["site"] == "mlp_act" and run.data.params["layers"] == "0,1"
    metrics = run.data.metrics
    assert 0 < metrics["span/cosine"] < 1

    files = MlflowClient(tracking_uri=mlflow).download_artifacts(run.info.run_id, "plots", tmp_path)
    assert (Path(files) / "by_layer.png").read_bytes().startswith(b"\x89PNG")
    page.goto(link.replace("?", "/artifacts/report.html?"))
    page.frame_locator("iframe").get_by_text("How alike are the activations").first.wait_for()


def test_a_study_of_layers_started_from_the_form_is_recorded(stack, page):
    prefect_ui.open_run_form(page, stack.deployments["layers"])
    prefect_ui.fill_text(page, "site (Optional)", "mlp_act")
    prefect_ui.fill_text(page, "note (Optional)", "asked in the browser")
    flow_run = prefect_ui.submit(page)
    assert final_state(stack, flow_run) == "COMPLETED"
    assert read_flow_run(stack, flow_run)["name"] == "minilm topics"
    (run,) = mlflow_runs(stack, flow_run)
    assert run.info.status == "FINISHED" and run.data.tags["neuroscope.kind"] == "layers"
    prefect_ui.open_artifact(page, stack.servers["Prefect"], flow_run, run.info.run_name)
    page.get_by_role("columnheader", name="topic").first.wait_for()


def test_an_atlas_started_from_the_form_is_recorded(stack, page):
    prefect_ui.open_run_form(page, stack.deployments["atlas"])
    prefect_ui.fill_text(page, "layers (Optional)", "4-5")
    flow_run = prefect_ui.submit(page)
    assert final_state(stack, flow_run) == "COMPLETED"
    (run,) = mlflow_runs(stack, flow_run)
    assert run.info.status == "FINISHED" and run.data.tags["neuroscope.kind"] == "atlas"
    prefect_ui.open_artifact(page, stack.servers["Prefect"], flow_run, run.info.run_name)
    page.get_by_role("columnheader", name="selective").first.wait_for()


def test_associations_started_from_the_form_are_recorded(stack, page):
    prefect_ui.open_run_form(page, stack.deployments["association"])
    prefect_ui.fill_text(page, "layers (Optional)", "4")
    flow_run = prefect_ui.submit(page)
    assert final_state(stack, flow_run) == "COMPLETED"
    assert read_flow_run(stack, flow_run)["name"] == "minilm occupations_gender"
    (run,) = mlflow_runs(stack, flow_run)
    assert run.info.status == "FINISHED" and run.data.tags["neuroscope.kind"] == "association"
    prefect_ui.open_artifact(page, stack.servers["Prefect"], flow_run, run.info.run_name)
    page.get_by_role("columnheader", name="controlled").first.wait_for()


def test_several_models_have_an_artifact_and_a_link_each(stack, tmp_path):
    folder = make_model("bert", tmp_path / "tiny")
    prompts = {"prompts": ["the cat sits .", "the dog sits ."]}
    flow_run = start_flow_run(stack, "compare", models=["minilm", str(folder)], **prompts)
    assert final_state(stack, flow_run) == "COMPLETED"
    assert read_flow_run(stack, flow_run)["name"] == "minilm, tiny cat-vs-dog"
    runs = mlflow_runs(stack, flow_run)
    assert len(runs) == 3
    links = [line for line in logged(stack, flow_run, "2 models") if "MLflow run" in line]
    assert all(run.info.run_id in link for run, link in zip(runs[::-1], links, strict=True))
    body = {"artifacts": {"flow_run_id": {"any_": [flow_run]}}}
    artifacts = post(f"{stack.servers['Prefect']}/api/artifacts/filter", body).json()
    assert len(artifacts) == 3


FAULTS = [
    ("compare", "template (Optional)", "no gap", "does not match"),
    ("compare", "template (Optional)", "{} and {}", "should not be valid"),
    ("compare", "file (Optional)", "  ", "does not match"),
    ("compare", "site (Optional)", "mlp", "does not match"),
    ("layers", "File", "", "is a required property"),
    ("atlas", "pool (Optional)", "last", "does not match"),
]


@pytest.mark.parametrize("deployment, name, value, message", FAULTS)
def test_a_form_refuses_a_text_at_its_field(stack, page, deployment, name, value, message):
    prefect_ui.open_run_form(page, stack.deployments[deployment])
    prefect_ui.fill_text(page, name, value)
    page.get_by_role("button", name="Submit", exact=True).click()
    prefect_ui.field(page, name).get_by_text(message).wait_for()
    assert page.url.endswith("/run")


@pytest.mark.parametrize("name", ["prompts (Optional)", "models (Optional)"])
def test_a_form_refuses_blank_items_at_their_fields(stack, page, name):
    prefect_ui.open_run_form(page, stack.deployments["compare"])
    prefect_ui.fill_list(page, name, ["", " "])
    page.get_by_role("button", name="Submit", exact=True).click()
    prefect_ui.field(page, name).get_by_text("is not of type").wait_for()
    prefect_ui.field(page, name).get_by_text("does not match").wait_for()
    assert page.url.endswith("/run")


REFUSED = [
    ("compare", {"prompts": ["one"]}, "prompts"),
    ("compare", {"models": []}, "models"),
    ("compare", {"prompts": ["a", "\n"]}, "prompts[1]"),
    ("compare", {"template": "no gap"}, "template"),
    ("layers", {"dtype": "int8"}, "dtype"),
    ("layers", {"prompts": {"file": " "}}, "prompts.file"),
]


@pytest.mark.parametrize("deployment, parameters, name", REFUSED)
def test_the_server_refuses_what_the_form_refuses(stack, deployment, parameters, name):
    with pytest.raises(httpx.HTTPStatusError) as raised:
        start_flow_run(stack, deployment, **parameters)
    assert raised.value.response.status_code == 409
    assert f"'{name}'" in raised.value.response.json()["detail"]


def test_a_flow_that_fails_leaves_failed_runs_and_one_clear_message(stack):
    flow_run = start_flow_run(stack, "compare", prompts=["cat " * 600, "a dog"])
    assert final_state(stack, flow_run) == "FAILED"
    assert final_statuses(stack, flow_run) == {"FAILED"}
    message = read_flow_run(stack, flow_run)["state"]["message"]
    assert message.startswith("prompt 'cat cat") and "truncate = True" in message
    lines = logged(stack, flow_run, "Finished in state Failed(\"prompt 'cat cat")
    assert message in lines and not any("Traceback" in line for line in lines)


def test_a_flow_that_is_cancelled_leaves_killed_runs(stack):
    prompts = [f"The cat number {number} is on the mat" for number in range(100)]
    flow_run = start_flow_run(stack, "compare", prompts=prompts, site="mlp_out")
    wait_for(lambda: comparisons(stack, flow_run))
    state = {"state": {"type": "CANCELLING"}, "force": False}
    post(f"{stack.servers['Prefect']}/api/flow_runs/{flow_run}/set_state", state)
    cancelled = time.monotonic()
    assert final_state(stack, flow_run) == "CANCELLED"
    assert "KILLED" in final_statuses(stack, flow_run)
    assert time.monotonic() - cancelled < 5


def test_a_flow_that_is_killed_leaves_killed_runs(stack):
    flow_run = start_flow_run(stack, "compare", site="attn_out")
    (run, *_) = wait_for(lambda: mlflow_runs(stack, flow_run))
    os.kill(int(run.data.tags[PROCESS_TAG].split()[-2]), signal.SIGKILL)
    assert final_state(stack, flow_run) == "CRASHED"
    assert "KILLED" in final_statuses(stack, flow_run)


ANALYTICS = {"sr-client-cfg.amplitude.com"}
LOGOS = {"raw.githubusercontent.com", "cdn.sanity.io"}
VIDEO = {"mlflow.org"}


def test_pages_ask_no_other_hosts_but_those_in_the_documentation(stack, page):
    mlflow, prefect = stack.servers["MLflow"], stack.servers["Prefect"]
    flow_run = start_flow_run(stack, "compare")
    assert final_state(stack, flow_run) == "COMPLETED"
    (run,) = mlflow_runs(stack, flow_run)
    experiment = f"{mlflow}/#/experiments/{run.info.experiment_id}"
    form = stack.deployments["compare"].removeprefix(prefect)
    training = "workflowType=machine_learning"
    pages = {
        f"{experiment}/runs?{training}": (run.info.run_name, set()),
        f"{experiment}/runs?{training}&compareRunsMode=CHART": (run.info.run_name, set()),
        f"{experiment}/runs/{run.info.run_id}?{training}": (run.info.run_id, set()),
        f"{mlflow}/#/models": ("Registered Models", set()),
        f"{experiment}/traces": ("Traces", VIDEO),
        f"{prefect}/": ("Dashboard", set()),
        f"{prefect}/runs": ("minilm cat-vs-dog", set()),
        f"{prefect}/runs/flow-run/{flow_run}": (run.info.run_id, set()),
        f"{prefect}{form}": ("note", set()),
        f"{prefect}/blocks/catalog": ("Slack Webhook", LOGOS),
        f"{prefect}/work-pools/create": ("Docker", LOGOS),
        f"{prefect}/v2/runs/flow-run/{flow_run}": ("minilm cat-vs-dog", ANALYTICS),
        f"{prefect}/v2{form}": ("note", ANALYTICS),
    }
    texts = {address: shown for address, (shown, _) in pages.items()}
    for address, hosts in prefect_ui.other_hosts(page, texts).items():
        assert hosts <= pages[address][1], address
    document = (REPOSITORY / "docs" / "servers.md").read_text(encoding="utf-8")
    assert all(host in document for host in ANALYTICS | LOGOS | VIDEO)
