"""Fixtures: an isolated home for each test, folders of tiny models, a recorded comparison."""

import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compared import experiment_for
from hypothesis import settings
from mlflow import MlflowClient
from mlflow_server import Server, serving
from models import make_model
from sqlalchemy import Engine, event

from neuroscope import Tracker, run_comparison
from neuroscope.studies.run_folder import RunFolder
from neuroscope.studies.steps import InlineExecutor

pytest_plugins = ["drifting"]

# tiny models gain nothing from threads, and lose much when other processes need the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a slow machine is not a failure, and CI draws the same examples every time
settings.register_profile("neuroscope", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("neuroscope")


SLOW = (
    *("test_cli", "test_end_to_end", "test_examples", "test_killed", "test_prefect", "test_rerun"),
    *("test_registry_server", "test_second_process", "test_signals", "test_stack"),
    *("test_report_command", "test_study_commands"),
)
"""Files whose tests start servers, browsers, flows or other processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the slow files, so that `make quick` can skip them."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def unsynchronised() -> Iterator[None]:
    """Do not wait for the disk: no test examines what a power failure leaves."""

    def synchronise_never(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", synchronise_never)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield
    event.remove(Engine, "connect", synchronise_never)


def isolate(home: Path, patch: pytest.MonkeyPatch) -> None:
    """Set the home, and hide the user's settings."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PREFECT_API_URL", "PREFECT_PROFILE"):
        patch.delenv(name, raising=False)
    patch.setenv("NEUROSCOPE_HOME", str(home))
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a test a home of its own, hide the user's settings, and restore the environment."""
    original = dict(os.environ)
    isolate(tmp_path / "home", monkeypatch)
    yield tmp_path / "home"
    os.environ.clear()
    os.environ.update(original)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an MLflow database without runs, created once: its tables take seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(home: Path, empty_database: Path) -> Path:
    """Return the home's MLflow database, with its tables."""
    home.mkdir()
    return Path(shutil.copy(empty_database, home / "mlflow.db"))


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that gives the folder of a family's two-layer model."""
    folders: dict[tuple[str, bool], Path] = {}

    def folder(family: str, *, head: bool = False) -> Path:
        if (family, head) not in folders:
            folders[family, head] = make_model(family, tmp_path_factory.mktemp(family), head=head)
        return folders[family, head]

    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a path for activations at which nothing exists yet."""
    return tmp_path / "acts"


@pytest.fixture(scope="session")
def recorded_home(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """Return the home in which `recorded` records."""
    home = tmp_path_factory.mktemp("recorded")
    shutil.copy(empty_database, home / "mlflow.db")
    return home


@pytest.fixture(scope="session")
def recorded(family_folder, recorded_home):
    """Record a comparison in two models; return the results and a client of MLflow."""
    experiment = experiment_for(family_folder("bert"), family_folder("llama"), note="why")
    with pytest.MonkeyPatch.context() as patch:
        isolate(recorded_home, patch)
        tracker = Tracker.open()
        comparisons = run_comparison(experiment, tracker)
    return comparisons, MlflowClient(tracking_uri=tracker.uri)


@pytest.fixture(scope="session")
def mlflow_server(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[Server]:
    """Return an MLflow server that keeps the runs of all tests that use it."""
    with serving(tmp_path_factory.mktemp("server"), empty_database) as server:
        yield server


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, which take most of the time of a recorded run."""
    monkeypatch.setattr(RunFolder, "figures", lambda folder, figures: [])


@pytest.fixture
def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], without_figures: None
) -> Callable[..., Any]:
    """Return a function that runs a command here and returns its exit code and its output.

    Studies load models here too: a second process would import torch for seconds.
    """
    from flows import cli

    monkeypatch.setattr("flows.second_process.SecondProcessExecutor", InlineExecutor)

    def run(*arguments: object) -> Any:
        monkeypatch.setattr(sys, "argv", ["neuroscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        return raised.value.code, capsys.readouterr()

    return run


@pytest.fixture
def run_json(run_command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs a command and returns its JSON document."""

    def run(*arguments: object) -> Any:
        code, printed = run_command(*arguments, "--json")
        assert code == 0, printed.err
        return json.loads(printed.out)

    return run
