"""Health of the stack where servers or disk space are missing."""

import pytest

from flows.health import stack_health


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
