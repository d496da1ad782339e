"""Health of the stack where servers or disk space are missing."""

import pytest

from flows.health import links_page, stack_health


@pytest.fixture
def nowhere(monkeypatch, home):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")


def test_each_part_that_is_down_is_named(nowhere):
    checks = stack_health()
    assert {name: check.ok for name, check in checks.items()} == {
        "mlflow": False,
        "prefect": False,
        "worker": False,
        "disk": True,
    }
    assert "MLflow does not answer" in checks["mlflow"].message
    assert "http://127.0.0.1:9" in checks["prefect"].message


def test_a_disk_that_is_nearly_full_is_reported(nowhere, monkeypatch):
    monkeypatch.setattr("flows.health.free_bytes", lambda folder: 5_000_000)
    check = stack_health()["disk"]
    assert not check.ok and "5.0 MB free" in check.message


def test_the_page_of_links_says_what_does_not_answer(nowhere):
    page = links_page()
    assert "MLflow does not answer" in page and "http://127.0.0.1:9" in page
    assert "<a href='/health'>" in page


def test_the_page_of_links_escapes_what_it_shows(nowhere, monkeypatch):
    monkeypatch.setattr("flows.health._runs", lambda: {"<b>'": "http://a/?b='c'"})
    page = links_page()
    assert "&lt;b&gt;&#x27;" in page and "b=&#x27;c&#x27;" in page and "<b>" not in page
