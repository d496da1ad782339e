"""Steps of a user in Prefect's interface, by browser, for the end-to-end test."""

import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from playwright.sync_api import Locator, Page, Request, Response


def open_run_form(page: Page, address: str) -> None:
    """Open the form of a deployment at the address that `neuroscope up` prints."""
    page.goto(address)
    field(page, "note (Optional)").locator("textarea").wait_for()


def field(page: Page, name: str) -> Locator:
    """Return a field of the form, with its label, its input and its errors."""
    label = page.locator(".schema-form-property__label").get_by_text(name, exact=True)
    return page.locator(".schema-form-property").filter(has=label).last


def fill_text(page: Page, name: str, value: str) -> None:
    """Fill in a text field."""
    field(page, name).locator("textarea").fill(value)


def fill_list(page: Page, name: str, values: Sequence[str]) -> None:
    """Set a list to these values, which are as many as it has or more."""
    texts = field(page, name).locator("textarea")
    while (count := texts.count()) < len(values):
        field(page, name).get_by_role("button", name="Add item").click()
        texts.nth(count).wait_for()
    for index, value in enumerate(values):
        texts.nth(index).fill(value)


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


def open_tab(page: Page, ui: str, flow_run: str, name: str) -> None:
    """Open a tab on the page of a flow run."""
    page.goto(f"{ui}/runs/flow-run/{flow_run}")
    page.locator(".p-tab").get_by_text(name, exact=True).click()


def open_artifact(page: Page, ui: str, flow_run: str, run: str) -> None:
    """Open the artifact of an MLflow run, by the name of the run, from the flow run's page."""
    open_tab(page, ui, flow_run, "Artifacts")
    page.locator(".artifact-card").filter(has_text=run).locator(".artifact-card__header").click()
    page.get_by_role("table").first.wait_for()


def other_hosts(page: Page, addresses: dict[str, str]) -> dict[str, set[str]]:
    """Open addresses in tabs until their texts are shown; return the hosts each asks.

    Args:
        page: page whose profile the tabs use.
        addresses: address -> text that it shows.

    Returns:
        address -> hosts, but for this machine.
    """
    tabs = {address: page.context.new_page() for address in addresses}
    hosts: dict[str, set[str]] = {address: set() for address in addresses}

    def visit(address: str) -> None:
        def add(request: Request) -> None:
            hosts[address].add(urlsplit(request.url).hostname or "")

        tabs[address].on("request", add)
        tabs[address].set_default_timeout(60_000)
        tabs[address].goto(address, wait_until="commit")

    for address in addresses:
        visit(address)
    for address, shown in addresses.items():
        tabs[address].get_by_text(shown).first.wait_for()
    page.wait_for_timeout(2000)  # what a page asks for once it is shown
    for tab in tabs.values():
        tab.close()
    return {address: asked - {"", "127.0.0.1"} for address, asked in hosts.items()}
