"""The record of a running `neuroscope up`."""

import json
import socket
import subprocess
import sys

import pytest

from flows.running_stack import mlflow_port, recorded_servers


@pytest.fixture
def port(home):
    """Return the port of a server that only accepts connections."""
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_stack_is_found_while_it_runs(port, home):
    assert mlflow_port() is None
    with recorded_servers({"MLflow": f"http://127.0.0.1:{port}", "Prefect": "http://127.0.0.1:9"}):
        assert mlflow_port() == port
    assert mlflow_port() is None and list(home.iterdir()) == []


def test_a_server_that_does_not_respond_is_not_found(home):
    home.mkdir()
    with recorded_servers({"MLflow": "http://127.0.0.1:9"}):
        assert mlflow_port() is None


def test_the_record_of_a_killed_stack_is_ignored(port, home):
    script = f"""
import os
from flows.running_stack import recorded_servers
with recorded_servers({{"MLflow": "http://127.0.0.1:{port}"}}):
    os._exit(1)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 1
    assert json.loads((home / "stack.json").read_text())["servers"]["MLflow"].endswith(str(port))
    assert mlflow_port() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"servers": {"MLflow": 1}, "process": 2}', "\0"])
def test_a_damaged_record_is_ignored(text, home):
    home.mkdir()
    (home / "stack.json").write_text(text)
    assert mlflow_port() is None
