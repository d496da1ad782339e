"""Fixtures: an isolated home for every test, and folders of tiny models."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from models import make_model

# tiny models do not gain from threads, and lose much where other processes need the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("neuroscope", deadline=None)  # a loaded machine is no failure
settings.load_profile("neuroscope")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home; the user's environment and other tests do not reach a test."""
    before = dict(os.environ)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PREFECT_API_URL", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEUROSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    yield tmp_path / "home"
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs; creating its tables takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(home: Path, empty_database: Path) -> Path:
    """The home's MLflow database, ready for use."""
    home.mkdir()
    return Path(shutil.copy(empty_database, home / "mlflow.db"))


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives the folder of a family's two-layer model, created at its first use."""
    folders: dict[tuple[str, bool], Path] = {}

    def folder(family: str, *, head: bool = False) -> Path:
        if (family, head) not in folders:
            folders[family, head] = make_model(family, tmp_path_factory.mktemp(family), head=head)
        return folders[family, head]

    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A path for activations, where nothing exists yet."""
    return tmp_path / "acts"
