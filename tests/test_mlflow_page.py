"""Runs as a new browser shows them in MLflow, without any settings."""

import re

import pytest
from mlflow_server import serving_home
from playwright.sync_api import sync_playwright
from test_end_to_end import ARGUMENTS, BROWSERS, find_browser

from neuroscope import Tracker


@pytest.fixture(scope="module")
def browser():
    path = find_browser(BROWSERS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser):
    """Return a function that opens an address in a new browser profile, on a wide screen."""
    contexts = []

    def open_page(address):
        contexts.append(browser.new_context(viewport={"width": 2400, "height": 3000}))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_links_open_runs_charts_and_reports_that_tell_the_models_apart(
    recorded, home, new_page, monkeypatch
):
    results, _ = recorded
    bert, llama = results.run_ids[:2]
    with serving_home(home) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        tracker = Tracker.connect()

        table = new_page(tracker.charts_address(bert).replace("=CHART", "=TABLE"))
        rows = table.locator(".ag-center-cols-container [role=row]")
        rows.nth(1).wait_for()
        table.get_by_text("llama0", exact=True).wait_for()  # the column of models is filled later
        cells = [row.inner_text() for row in rows.all()]
        assert len(cells) == 2
        for cell in cells:
            assert not re.search(r"^-$", cell, re.MULTILINE), cell
            assert "engineer" in cell and "resid_post" in cell

        charts = new_page(tracker.charts_address(bert))
        charts.get_by_text("span/cosine_z").first.wait_for()
        text = charts.inner_text("body")
        counts = re.findall(
            r"^(?:aligned|context|span|pairs|summary)\s*\((\d+)\)", text, re.MULTILINE
        )
        assert len(counts) == 5 and sum(map(int, counts)) <= 40, text
        assert {"bert0", "llama0"} <= {word for word in text.split() if word.endswith("0")}

        run = new_page(tracker.address(llama))
        run.get_by_text("Least alike").wait_for()
        with run.expect_popup() as popup:
            run.get_by_text("Open the report").click()
        report = popup.value.frame_locator("iframe")
        report.get_by_text("How alike are the activations?").wait_for()

        overview = new_page(tracker.report_location(results.overview.run_id))
        overview.frame_locator("iframe").get_by_text("llama0 minus bert0").first.wait_for()
