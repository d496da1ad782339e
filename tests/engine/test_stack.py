"""The stack on a server, built and used in a real container engine; see docker/README.md."""

import httpx
import pytest
from browsers import open_page, wait_for
from containers import (
    RunningStack,
    add_wheel,
    check_engine,
    copy_repository,
    provide_all,
    run,
    take_picture,
)
from prefect_ui import fill_text, open_run_form, submit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
PROMPTS = ["the cat sat on the mat", "the dog sat on the mat"]
SERVICES = ("postgres", "mlflow", "prefect", "worker", "ui")
PARTS = ("mlflow", "prefect", "worker", "interface")


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    check_engine()
    folder = tmp_path_factory.mktemp("repository")
    copy_repository(folder)
    index = add_wheel(folder)
    images = provide_all()  # meanwhile
    stack = RunningStack(folder)
    arguments = ["--build-arg", f"TORCH_INDEX={index}"] if index else []
    stack.configure({"BUILD_NETWORK": "host"})
    stack.compose("build", *arguments, "mlflow")
    for image in images:
        image.result()
    try:
        stack.start()
        yield stack
    finally:
        stack.remove()


def test_a_flow_started_through_the_api_leaves_its_results(stack):
    flow_run = stack.start_flow("compare", prompts=PROMPTS, note="through the API")
    assert stack.final_state(flow_run) == "COMPLETED"
    assert stack.query("mlflow", "select status from runs") == "FINISHED"
    files = stack.compose("exec", "-T", "mlflow", "find", "/artifacts", "-name", "report.html")
    assert len(files.split()) == 1


def test_a_form_starts_a_flow_whose_run_is_found_in_mlflow(stack):
    pages = {row["name"]: row["id"] for row in stack.ask_prefect("deployments/filter", {})}
    with open_page() as page:
        page.goto(f"{stack.prefect}/deployments")
        page.locator("input").fill(f"admin:{stack.secret('prefect_password')}")
        page.get_by_role("button", name="Login", exact=True).click()
        page.get_by_text("compare").first.wait_for()
        open_run_form(page, f"{stack.prefect}/deployments/deployment/{pages['compare']}/run")
        fill_text(page, "note (Optional)", "through the form")
        page.mouse.wheel(0, -10_000)
        take_picture(page, "stack_form.png")
        flow_run = submit(page)
    assert stack.final_state(flow_run) == "COMPLETED"
    login = {"username": "admin", "password": stack.secret("mlflow_password")}
    with open_page(http_credentials=login) as page:
        page.goto(stack.links)
        page.get_by_role("link", name="compare", exact=True).last.click()
        page.get_by_text("minilm").first.wait_for()
        page.locator(".plotly, canvas, svg.main-svg").first.wait_for()
        page.get_by_role("button", name="Close", exact=True).click()  # the assistant
        take_picture(page, "stack_run.png")
        page.get_by_text("minilm").first.click()
        page.get_by_text("through the form").first.wait_for()


def test_links_lead_to_addresses_that_a_browser_reaches(stack):
    logs = stack.ask_prefect("logs/filter", {"limit": 200})
    links = [row["message"] for row in logs if "MLflow run" in row["message"]]
    assert links and all(stack.mlflow in link for link in links)
    page = httpx.get(stack.links, timeout=60).text
    assert page.count(f"{stack.prefect}/deployments/deployment/") == 7
    assert page.count(f"{stack.mlflow}/#/experiments/") == 6


@pytest.mark.parametrize("login", [None, ("admin", "wrong"), ("", "")])
def test_a_wrong_password_is_refused(stack, login):
    assert stack.ask_mlflow("experiments/search?max_results=1", auth=login).status_code == 401
    assert stack.ask_mlflow("experiments/search?max_results=1").status_code == 200
    command = ["psql", "postgresql://mlflow:wrong@postgres/mlflow", "--command", "select 1"]
    with pytest.raises(AssertionError, match="password authentication failed"):
        stack.compose("exec", "-T", "postgres", *command)


def test_a_proxy_in_front_of_mlflow_is_accepted(stack):
    for host, status in (("127.0.0.1:5000", 200), ("elsewhere.example", 403)):
        headers = {"Host": host, "Origin": stack.mlflow}
        answer = stack.ask_mlflow("experiments/search?max_results=1", headers=headers)
        assert answer.status_code == status, host


def test_the_interface_reads_prompts_with_its_token_and_starts_flows(stack):
    wait_for(lambda: stack.health("ui") == "healthy")
    body = {"prompts": PROMPTS, "layers": "0"}
    with httpx.Client(base_url=stack.interface, timeout=300) as client:
        assert client.post("/api/probe", json=body).status_code == 401
        client.headers["Authorization"] = f"Bearer {stack.secret('ui_token')}"
        probe = client.post("/api/probe", json=body).raise_for_status().json()
        saved = client.post("/api/sessions", json={"id": probe["id"], "note": "kept"})
        (session,) = client.get("/api/sessions").json()
        assert session["run_id"] == saved.json()["run_id"]
        assert session["address"].startswith(stack.mlflow)
        run = client.post("/api/flows/compare", json={"parameters": {"prompts": PROMPTS}}).json()
        assert run["page"].startswith(stack.prefect)
        assert stack.final_state(run["id"]) == "COMPLETED"
        other = client.post("/api/probe", json={**body, "model": "bert-base-uncased"})
        assert other.status_code == 400 and "may not be used" in other.json()["error"]


def test_one_request_tells_the_health_of_all_services(stack):
    answer = httpx.get(f"{stack.health_page}/health", timeout=60)
    checks = answer.json()["checks"]
    assert answer.status_code == 200 and [*checks] == [*PARTS, "disk"]
    stack.compose("stop", "mlflow")
    answer = httpx.get(f"{stack.health_page}/health", timeout=60)
    failing = [name for name, check in answer.json()["checks"].items() if not check["ok"]]
    assert (answer.status_code, failing) == (503, ["mlflow"])
    stack.start()
    wait_for(lambda: stack.health("mlflow") == "healthy")


def test_services_have_no_privileges_and_no_open_ports(stack):
    for name in SERVICES:
        container = stack.container(name)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and host["Memory"] > 0
        assert "no-new-privileges:true" in host["SecurityOpt"]
        bindings = [port for ports in host["PortBindings"].values() for port in ports]
        assert {binding["HostIp"] for binding in bindings} <= {"127.0.0.1"}
    for name in ("mlflow", "prefect", "worker"):
        assert stack.compose("exec", "-T", name, "id", "--user").strip() == "10001"


def test_secrets_are_in_no_setting_and_no_log(stack):
    secrets = [file.read_text() for file in (stack.folder / "docker/secrets").iterdir()]
    texts = {"logs": stack.compose("logs", "--no-color")}
    texts |= {name: str(stack.container(name)) for name in SERVICES}
    texts |= {"image": run("docker", "history", "--no-trunc", "neuroscope:cpu")}
    assert [name for name, text in texts.items() if any(secret in text for secret in secrets)] == []


def test_deleted_runs_are_removed_from_the_disk(stack):
    before = stack.counts()
    newest = stack.query("mlflow", "select run_uuid from runs order by start_time desc limit 1")
    address = f"{stack.mlflow}/api/2.0/mlflow/runs/delete"
    login = ("admin", stack.secret("mlflow_password"))
    httpx.post(address, json={"run_id": newest}, auth=login, timeout=30).raise_for_status()
    command = ("python", "docker/service.py", "run", "remove-deleted")
    stack.compose("exec", "-T", "mlflow", *command)
    after = stack.counts()
    assert int(after[0]) == int(before[0]) - 1 and after[2] < before[2]


def test_nothing_is_lost_when_the_stack_is_stopped_and_started(stack):
    counts = stack.counts()
    # two comparisons, a session and a comparison from the interface, without a deleted one
    assert counts[:2] == ("3", "3")
    stack.compose("down")
    stack.start()
    assert stack.counts() == counts


def test_the_flow_run_of_a_killed_worker_is_marked_and_another_worker_goes_on(stack, tmp_path):
    prompts, statuses = {"file": "/data/topics.csv"}, "select status from runs"
    before = stack.query("mlflow", statuses).split()
    flow_run = stack.start_flow(
        "drift", base="minilm", candidate="minilm", candidate_dtype="bfloat16", prompts=prompts
    )
    running = "select count(*) from runs where status = 'RUNNING'"
    wait_for(lambda: stack.query("mlflow", running) == "1")
    run("docker", "kill", stack.container("worker")["Id"])
    with stack.worker_elsewhere(tmp_path) as elsewhere:  # with two passwords and the addresses
        again = stack.start_flow("compare", prompts=PROMPTS)
        assert stack.final_state(again) == "COMPLETED"
        assert again in elsewhere.compose("logs", "--no-color", "worker")
    assert stack.final_state(flow_run, limit=240) == "CRASHED"
    stack.start()
    again = stack.start_flow("compare", prompts=PROMPTS)
    assert stack.final_state(again) == "COMPLETED"
    after = stack.query("mlflow", statuses).split()
    assert sorted(after) == sorted([*before, "FINISHED", "FINISHED", "KILLED"])


def test_a_backup_replaces_everything(stack, tmp_path):
    counts = stack.counts()
    run("docker/backup", tmp_path / "backup", folder=stack.folder)
    stack.compose("down", "--volumes")
    stack.start()
    assert stack.counts() == ("0", "0", 0)
    run("docker/restore", tmp_path / "backup", folder=stack.folder)
    wait_for(lambda: stack.health("worker") == "healthy")
    assert stack.counts() == counts
    again = stack.start_flow("compare", prompts=PROMPTS)
    assert stack.final_state(again) == "COMPLETED"


def test_several_servers_of_prefect_and_an_object_store_do_the_same_work(stack):
    stack.compose("down", "--volumes")
    address = "http://prefect-api:4200/api"
    stack.configure(
        {
            "STACK_ARTIFACTS": "s3://neuroscope",
            "STACK_MESSAGES": "redis",
            "STACK_PREFECT": address,
        }
    )
    stack.start("s3", "scale")
    flow_run = stack.start_flow("compare", prompts=PROMPTS)
    assert stack.final_state(flow_run) == "COMPLETED"
    run_id = stack.query("mlflow", "select run_uuid from runs")
    login = ("admin", stack.secret("mlflow_password"))
    file = httpx.get(
        f"{stack.mlflow}/get-artifact?path=report.html&run_uuid={run_id}", auth=login, timeout=60
    )
    assert file.status_code == 200 and "<html" in file.text
    assert stack.compose("exec", "-T", "mlflow", "find", "/artifacts", "-type", "f") == ""
    keys = ("exec", "-T", "redis", "redis-cli", "-e")
    with pytest.raises(AssertionError, match="Authentication required"):
        stack.compose(*keys, "keys", "*")
    password = ("-a", stack.secret("redis_password"), "--no-auth-warning")
    assert "events" in stack.compose(*keys, *password, "keys", "*")
