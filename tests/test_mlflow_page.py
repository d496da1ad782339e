"""Runs as a new browser shows them in MLflow, without any settings."""

import re
from pathlib import Path

import pytest
from browsers import open_browser
from compared import experiment_for
from mlflow_server import serving_home

from neuroscope import Tracker, run_comparison
from neuroscope.reporting.experiments import runs_pages


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(recorded, recorded_home):
    """Serve the home of `recorded`; return the address."""
    with serving_home(recorded_home) as address:
        yield address


@pytest.fixture
def new_page(browser):
    """Return a function that opens an address in a new browser profile, on a wide screen."""
    contexts = []

    def open_page(address, width=2400, height=3000):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_links_open_runs_charts_and_reports_that_tell_the_models_apart(
    recorded, server, new_page, monkeypatch
):
    results, _ = recorded
    bert, llama = results.run_ids[:2]
    names = [Path(result.model).name for result in results]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    tracker = Tracker.connect()

    table = new_page(tracker.charts_address(bert).replace("=CHART", "=TABLE"))
    rows = table.locator(".ag-center-cols-container [role=row]")
    rows.nth(1).wait_for()
    table.get_by_text(names[1], exact=True).wait_for()  # the column of models is filled later
    cells = [row.inner_text() for row in rows.all()]
    assert len(cells) == 2
    for cell in cells:
        assert not re.search(r"^-$", cell, re.MULTILINE), cell
        assert "engineer" in cell and "resid_post" in cell

    charts = new_page(tracker.charts_address(bert))
    charts.get_by_text("span/cosine_z").first.wait_for()
    text = charts.inner_text("body")
    counts = re.findall(
        r"^(?:aligned|context|difference|span|pairs|summary)\s*\((\d+)\)", text, re.MULTILINE
    )
    assert len(counts) == 6 and sum(map(int, counts)) <= 40, text
    assert set(names) <= set(text.split())

    run = new_page(tracker.address(llama), width=1600, height=1000)
    run.get_by_text("Least alike").wait_for()
    with run.expect_popup() as popup:
        run.get_by_text("Open the report").click(timeout=10_000)  # not below the fade-out
    report = popup.value.frame_locator("iframe")
    report.get_by_text("How alike are the activations?").wait_for()

    charts.get_by_placeholder("Search metric charts").fill("^difference/span")
    charts.get_by_text(re.compile(r"^difference\s*\(1\)")).wait_for()

    runs = new_page(runs_pages(server, server, ["compare"])["compare"])
    runs.get_by_placeholder("Search metric charts").wait_for()
    assert "workflowType=machine_learning" in runs.url

    overview = new_page(tracker.report_location(results.overview.run_id))
    overview.frame_locator("iframe").get_by_text(" minus ".join(reversed(names))).first.wait_for()


def test_a_report_has_links_alone_and_their_addresses_in_the_preview_of_mlflow(
    family_folder, server, new_page, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    tracker = Tracker.open()
    prompts = [{"texts": ["the cat sits .", "the dog sits ."]}]  # not those of `recorded`
    experiment = experiment_for(family_folder("bert"), family_folder("llama"), prompts=prompts)
    results = run_comparison(experiment, tracker)
    run_id = results.overview.run_id
    framed = new_page(tracker.report_location(run_id)).frame_locator("iframe")
    framed.get_by_text("Addresses of related pages").click()
    addresses = framed.locator(".links code")
    addresses.first.wait_for()  # the sandbox of the frame blocks every link
    assert framed.locator("a").count() == 0
    shown = addresses.all_inner_texts()
    assert tracker.address(run_id) in shown
    assert {tracker.address(result.run_id) for result in results} < set(shown)

    alone = new_page(tracker.artifact(run_id, "report.html").as_uri())
    assert alone.locator(".links code").count() == 0
    assert alone.locator(".links a").count() == len(shown)
    alone.get_by_text("run of llama").click()
    alone.get_by_text("Least alike").wait_for()
