"""Claims of docs/security.md that no other test holds, and that each of them names its tests."""

import re
import shutil
from pathlib import Path

import pytest
from models import make_model
from registered import Register

import neuroscope as ns
from flows.services import services
from flows.stack import PORTS, stack_environment
from neuroscope.errors import NeuroscopeError
from neuroscope.reporting.tracking_server import embedded_database
from neuroscope.studies.drift.experiment import drift_experiment
from neuroscope.studies.drift.subjects import find_baseline

ROOT = Path(__file__).parents[1]


@pytest.fixture
def server(tmp_path, home, monkeypatch):
    """Return the only folder that a server may read, and one beside it."""
    inside, outside = tmp_path / "data", tmp_path / "database"
    for folder in (inside, outside):
        make_model("bert", folder / "model")
        (folder / "prompts.txt").write_text("the cat\n")
    monkeypatch.setenv("NEUROSCOPE_ROOTS", f"{inside}:/nowhere")
    return inside, outside


def test_a_server_reads_from_its_folders_only(server):
    inside, outside = server
    assert ns.load_model(str(inside / "model")).layer_count
    assert len(ns.PromptFile.open(inside / "prompts.txt")) == 1
    for read, path in (
        (ns.load_model, outside / "model"),
        (ns.load_model, inside / ".." / outside.name / "model"),
        (ns.PromptFile.open, outside / "prompts.txt"),
        (ns.read_prompts, outside / "prompts.txt"),
        (find_baseline, outside / "prompts.txt"),
    ):
        with pytest.raises(NeuroscopeError, match="outside the folders"):
            read(str(path))


def test_a_link_does_not_lead_out_of_the_folders(server):
    inside, outside = server
    (inside / "link.txt").symlink_to(outside / "prompts.txt")
    with pytest.raises(NeuroscopeError, match="outside the folders"):
        ns.PromptFile.open(inside / "link.txt")


def test_a_registered_model_does_not_lead_out_of_the_folders(server, database, monkeypatch):
    _, outside = server
    monkeypatch.chdir(outside)  # MLflow puts artifacts below the working directory
    Register(embedded_database(database.parent)).point_to(str(outside / "model"), "news")
    with pytest.raises(NeuroscopeError, match="outside the folders"):
        ns.load_model("models:/news/1")


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "x\n"])
def test_the_name_of_an_experiment_is_no_path(name):
    with pytest.raises(NeuroscopeError, match="name"):
        drift_experiment("a", "b", {"texts": ["x"]}, name=name)


def test_no_process_is_started_through_a_shell():
    shells = r"os\.system|os\.popen|getoutput|getstatusoutput|/bin/sh|\"-c\", f\"|shell=True"
    folders = ("neuroscope", "flows", "docker")
    files = [file for name in folders for file in ROOT.glob(f"{name}/**/*.py")]
    assert len(files) > 100
    for path in files:
        assert not re.search(shells, path.read_text(encoding="utf-8")), path


def test_servers_listen_on_this_machine_only(tmp_path, home):
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    for service in services(PORTS, stack_environment("", ""), tmp_path, 1):
        hosts = re.findall(r"--host (\S+)", " ".join(service.command))
        assert hosts == (["127.0.0.1"] if service.title else []), service.name


def test_each_claim_names_tests_that_exist():
    rows = re.findall(r"^\| .* \| (.*) \|$", (ROOT / "docs/security.md").read_text(), re.M)[2:]
    assert len(rows) >= 10
    for row in rows:
        tests = re.findall(r"`(\S+)::(\w+)`", row)
        assert tests, row
        for file, name in tests:
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), name
