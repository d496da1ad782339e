"""Files of docker/, without a container engine; tests/engine uses them for real."""

import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.services import deployment_names

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"


@pytest.fixture(scope="module")
def compose():
    return YAML(typ="safe").load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def service():
    """Return the module of the containers' entry point."""
    spec = spec_from_file_location("service", DOCKER / "service.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_compose_file_follows_the_specification():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, DOCKER / "compose.yaml"], check=True, capture_output=True)


def test_the_readme_names_every_service(compose):
    text = (DOCKER / "README.md").read_text(encoding="utf-8")
    assert [name for name in compose["services"] if f"`{name}`" not in text] == []


def test_services_are_limited_and_their_images_pinned(compose):
    for name, settings in compose["services"].items():
        assert settings["cap_drop"] == ["ALL"] and settings["mem_limit"], name
        assert settings["pids_limit"] and settings["restart"], name
        assert all(port.startswith("127.0.0.1:") for port in settings.get("ports", [])), name
        assert re.fullmatch(r"neuroscope:\w+|[\w/]+:[\d.]+(-\w+)?", settings["image"]), name
        assert settings["logging"]["options"]["max-size"], name


def test_services_wait_until_the_others_answer(compose):
    for name in ("mlflow", "prefect", "worker", "health", "ui", "prefect-api", "redis", "postgres"):
        assert compose["services"][name]["healthcheck"]["test"], name
    waits = compose["services"]["worker"]["depends_on"]
    assert waits["mlflow"]["condition"] == "service_healthy"
    assert waits["deploy"]["condition"] == "service_completed_successfully"


def test_every_command_of_a_container_exists(compose, service):
    for name, settings in compose["services"].items():
        if settings["image"].startswith("neuroscope:"):
            assert settings["command"][0] in service.RUN, name
            check = settings.get("healthcheck", {}).get("test", ["worker"])[-1]
            assert check in service.CHECK, name


def test_every_setting_is_used_and_every_secret_is_created(compose):
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    settings = re.findall(r"^#?(\w+)=", (DOCKER / "settings.env").read_text(), re.M)
    unused = [name for name in settings if f"${{{name}" not in text]
    assert unused == ["COMPOSE_PROJECT_NAME"]  # read by Compose itself
    created = (DOCKER / "setup").read_text(encoding="utf-8")
    assert all(name in created for name in compose["secrets"])


def test_setup_keeps_what_exists(tmp_path):
    (tmp_path / "postgres").mkdir()
    for name in ("setup", "settings.env", "postgres/roles.sh"):
        (tmp_path / name).write_bytes((DOCKER / name).read_bytes())
    subprocess.run(["sh", tmp_path / "setup"], check=True, capture_output=True)
    secrets = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    assert len({*secrets.values()}) == len(secrets) and all(len(x) >= 48 for x in secrets.values())
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    (tmp_path / ".env").write_text("own\n")
    (tmp_path / "secrets/mlflow_password").unlink()
    subprocess.run(["sh", tmp_path / "setup"], check=True, capture_output=True)
    again = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    changed = [name for name in secrets if again[name] != secrets[name]]
    assert changed == ["mlflow_password"] and (tmp_path / ".env").read_text() == "own\n"


def test_a_password_may_have_any_character(service, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "SECRETS", tmp_path)
    monkeypatch.setenv("POSTGRES_HOST", "postgres:5432")
    (tmp_path / "mlflow_database_password").write_text("a/b@c:%é\n", encoding="utf-8")
    address = service.database("psycopg", "mlflow")
    assert address == "postgresql+psycopg://mlflow:a%2Fb%40c%3A%25%C3%A9@postgres:5432/mlflow"
    with pytest.raises(SystemExit, match="docker/setup"):
        service.secret("absent")


def test_everything_that_the_image_needs_reaches_the_build():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (DOCKER / "Dockerfile").read_text(), re.M)
    for name in " ".join(copied).split():
        assert f"!{name}" in ignored and (ROOT / name).exists(), name
    assert deployment_names(ROOT)
