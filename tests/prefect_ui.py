"""Steps of a user in Prefect's interface, by browser, for the end-to-end test."""

import time
from collections.abc import Sequence

import httpx
from playwright.sync_api import Locator, Page, Response


def open_run_form(page: Page, ui: str, deployment: str) -> None:
    """Open the form of a deployment as a user does: Deployments, its name, Run, Custom run."""
    page.goto(f"{ui}/v2/deployments")
    page.get_by_role("link", name=deployment, exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    page.get_by_role("textbox", name="note (Optional)").wait_for()


def fill_text(page: Page, name: str, value: str) -> None:
    """Fill in a text field."""
    page.get_by_role("textbox", name=f"{name} (Optional)", exact=True).fill(value)


def choose(page: Page, name: str, option: str) -> None:
    """Choose an option of a select field."""
    page.get_by_role("button", name=f"Select {name}").click()
    page.get_by_role("option", name=option, exact=True).click()
    page.get_by_role("button", name=f"Select {name}").get_by_text(option, exact=True).wait_for()


def fill_list(page: Page, panel: Locator, values: Sequence[str]) -> None:
    """Set the only list in the panel to these values."""
    rows = panel.locator("[data-slot=card] > div:has(> [aria-roledescription=sortable])")
    rows.first.wait_for()
    while (count := rows.count()) > len(values):
        rows.last.get_by_role("button", name="Open menu").click()
        page.get_by_role("menuitem", name="Delete").click()
        rows.nth(count - 1).wait_for(state="detached")
    while (count := rows.count()) < len(values):
        panel.get_by_role("button", name="Add item").click()
        rows.nth(count).wait_for()
    for index, value in enumerate(values):
        rows.nth(index).locator("textarea").fill(value)


def fill_template(page: Page, template: str, fills: Sequence[str]) -> None:
    """Enter the prompts as a template with fills."""
    page.get_by_role("tab", name="Template with fills").click()
    fill_text(page, "Template", template)
    fill_list(page, page.get_by_role("tabpanel", name="Template with fills"), fills)


def submit(page: Page, attempts: int = 5) -> str:
    """Press Submit; return the id of the flow run.

    While SQLite is busy the server may answer 503. The form then stays open, and Submit is pressed
    again.
    """

    def creates_flow_run(response: Response) -> bool:
        return response.url.endswith("/create_flow_run")

    for _ in range(attempts):
        with page.expect_response(creates_flow_run) as response:
            page.get_by_role("button", name="Submit", exact=True).click()
        if response.value.ok:
            return str(response.value.json()["id"])
        assert response.value.status == 503, response.value.text()
        time.sleep(1)
    raise AssertionError("the server stayed busy")


def open_task_runs(page: Page, ui: str, flow_run: str, tasks: Sequence[str]) -> None:
    """Open the page of a flow run and wait until task runs of these names appear."""
    page.goto(f"{ui}/v2/runs/flow-run/{flow_run}?tab=TaskRuns")
    for task in tasks:
        page.get_by_text(task, exact=True).first.wait_for()


def open_artifact(page: Page, ui: str, flow_run: str, key: str) -> None:
    """Open the Markdown artifact that a flow run created under this key."""
    body = {"artifacts": {"flow_run_id": {"any_": [flow_run]}, "key": {"any_": [key]}}}
    response = httpx.post(f"{ui}/api/artifacts/filter", json=body).raise_for_status()
    page.goto(f"{ui}/v2/artifacts/artifact/{response.json()[0]['id']}")
    page.get_by_role("table").first.wait_for()
