"""The record of a running `neuroscope up`."""

import json
import socket
import subprocess
import sys

import pytest

from flows import display, stack
from flows.running_stack import mlflow_port, recorded_servers
from flows.signals import Interrupted
from flows.stack import StackAddresses


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
    assert mlflow_port() is None and list(home.iterdir()) == [home / "processes"]


def test_a_server_that_does_not_respond_is_not_found(home):
    home.mkdir()
    with recorded_servers({"MLflow": "http://127.0.0.1:9"}):
        assert mlflow_port() is None


def test_the_record_of_a_killed_stack_is_ignored(port, home):
    script = f"""
import os
from flows import display, stack
from flows.running_stack import mlflow_port, recorded_servers
from flows.signals import Interrupted
from flows.stack import StackAddresses
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


def test_up_records_its_servers_until_it_ends(port, home, monkeypatch):
    servers = {"MLflow": f"http://127.0.0.1:{port}"}
    addresses = StackAddresses(servers, deployments={}, runs={}, variables={}, logs=home)
    monkeypatch.setattr(stack, "services", lambda *_: [])
    monkeypatch.setattr(stack, "check_ports", lambda _: None)
    monkeypatch.setattr(stack.Stack, "addresses", lambda _: addresses)
    found = []

    def end(_):
        found.append(mlflow_port())
        raise Interrupted

    with pytest.raises(Interrupted):
        stack.up(on_ready=end)
    assert (found, mlflow_port()) == ([port], None)


def test_the_address_of_runs_is_printed_below_that_of_the_form(home, capsys):
    forms, runs = {"compare": "http://form"}, {"compare": "http://runs", "layers": "http://other"}
    display.show_addresses(
        StackAddresses({}, deployments=forms, runs=runs, variables={}, logs=home)
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Run compare: http://form", "Runs of compare: http://runs"]
