"""Models that are registered at a real MLflow server, which alone can read their files."""

import shutil

import numpy as np
import pytest
from registered import Register

import neuroscope as ns
from neuroscope.errors import ModelError, ResourceError, TrackingError
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.reporting import artifacts
from neuroscope.reporting.artifacts import ArtifactFolder
from neuroscope.studies.models import find_model


@pytest.fixture
def register(mlflow_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.address)
    return Register(mlflow_server.address)


@pytest.fixture
def folder(family_folder, tmp_path):
    return shutil.copytree(family_folder("bert"), tmp_path / "bert")


def activations_of(name):
    return ns.extract(ns.load_model(name, device="cpu"), ["the cat sits ."], layers=1)


def copies(home):
    """Return the folders of the downloaded models."""
    return [path for path in (home / "models").iterdir() if path.is_dir()]


def test_a_model_that_mlflow_logged_is_downloaded(register, folder, home):
    version = register.log_model(folder, "logged")
    register.client.set_registered_model_alias("logged", "champion", str(version))
    name = "models:/logged@champion"
    checkpoint = find_model(name)
    assert (checkpoint.name, checkpoint.revision) == (name, str(version))
    (copy,) = copies(home)
    assert (checkpoint.folder, checkpoint.tokenizer_folder) == (
        copy / "model",
        copy / "components" / "tokenizer",
    )
    expected = activations_of(str(folder))["resid_post.1"]
    np.testing.assert_array_equal(activations_of(name)["resid_post.1"], expected)


def test_a_folder_is_downloaded_once_without_unneeded_files(register, folder, home, monkeypatch):
    (folder / "pytorch_model.bin").write_text("the same weights again")
    (folder / "README.md").write_text("a model card")
    version = register.upload(folder, "plain")
    checkpoint = find_model(f"models:/plain/{version}")
    assert checkpoint.fingerprint == find_checkpoint(str(folder)).fingerprint
    names = {path.name for path in checkpoint.folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

    def refuse(*_):
        raise AssertionError("the model was downloaded again")

    monkeypatch.setattr(ArtifactFolder, "download", refuse)
    register.client.set_registered_model_alias("plain", "champion", str(version))
    assert find_model("models:/plain@champion").folder == checkpoint.folder
    assert copies(home) == [checkpoint.folder]


def test_a_version_that_is_registered_again_is_downloaded_again(register, folder, family_folder):
    register.upload(folder, "again")
    first = find_model("models:/again/1").fingerprint
    register.client.delete_registered_model("again")
    register.upload(family_folder("llama"), "again")
    assert find_model("models:/again/1").fingerprint != first


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_download_leaves_no_model(error, register, folder, home, monkeypatch):
    version = register.upload(folder, "interrupted")
    download = ArtifactFolder.download

    def interrupt(artifact_folder, files, destination):
        download(artifact_folder, {"config.json": 1}, destination)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(ArtifactFolder, "download", interrupt)
        with pytest.raises((KeyboardInterrupt, TrackingError)):
            find_model(f"models:/interrupted/{version}")
    assert copies(home) == []
    assert find_model(f"models:/interrupted/{version}").folder == copies(home)[0]


def test_leftovers_of_a_killed_download_are_replaced(register, folder, home):
    version = register.upload(folder, "killed")
    copy = find_model(f"models:/killed/{version}").folder
    unfinished = copy.with_name(f".{copy.name}")
    copy.rename(unfinished)
    (unfinished / "model.safetensors").write_bytes(b"half")
    checkpoint = find_model(f"models:/killed/{version}")
    assert checkpoint.fingerprint == find_checkpoint(str(folder)).fingerprint
    assert copies(home) == [copy]


def test_a_disk_that_is_too_small_is_refused_before_the_download(
    register, folder, home, monkeypatch
):
    version = register.upload(folder, "large")
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=rf"{home / 'models'}.*1\.0 kB"):
        find_model(f"models:/large/{version}")
    assert copies(home) == []


def test_a_disk_that_fills_during_the_download_is_refused(register, folder, home, monkeypatch):
    version = register.upload(folder, "filling")
    usage = shutil.disk_usage("/")
    free = iter([usage.free, 0])
    monkeypatch.setattr(
        artifacts.shutil, "disk_usage", lambda path: usage._replace(free=next(free))
    )

    def fill(*_, **__):
        from mlflow.exceptions import MlflowException

        raise MlflowException("The following failures occurred while downloading")

    monkeypatch.setattr("mlflow.artifacts.download_artifacts", fill)
    with pytest.raises(ResourceError, match=str(home / "models")):
        find_model(f"models:/filling/{version}")


def test_a_version_whose_files_the_server_lacks_is_refused(register, folder, mlflow_server):
    version = register.upload(folder, "gone")
    source = register.client.get_model_version("gone", str(version)).source
    shutil.rmtree(mlflow_server.folder / "served" / source.removeprefix("mlflow-artifacts:/"))
    with pytest.raises(ModelError, match=rf"version {version}.*'gone'.*{source}"):
        find_model(f"models:/gone/{version}")


def test_pickled_weights_are_refused_without_a_download(register, folder, home):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    version = register.upload(folder, "pickled")
    with pytest.raises(ModelError, match=r"'pickled'.*pytorch_model\.bin"):
        find_model(f"models:/pickled/{version}")
    assert not (home / "models").exists()


def test_an_alias_is_followed_and_a_deleted_version_is_refused(register, folder, family_folder):
    register.upload(folder, "moving")
    register.upload(family_folder("llama"), "moving")
    fingerprints = set()
    for version in ("1", "2"):
        register.client.set_registered_model_alias("moving", "champion", version)
        checkpoint = find_model("models:/moving@champion")
        assert checkpoint.revision == version
        fingerprints.add(checkpoint.fingerprint)
    assert len(fingerprints) == 2
    register.client.delete_model_version("moving", "1")
    with pytest.raises(ModelError, match=r"version 1\b.*\b2\b"):
        find_model("models:/moving/1")


def test_a_missing_model_or_version_is_reported_with_those_that_exist(register, folder):
    register.upload(folder, "existing")
    register.client.set_registered_model_alias("existing", "champion", "1")
    for name, existing in (
        ("models:/existing/7", "1"),
        ("models:/existing@candidate", "champion"),
        ("models:/existinx/1", "existing"),
    ):
        with pytest.raises(ModelError, match=rf"\b{existing}\b"):
            find_model(name)


def test_a_server_that_is_down_is_reported(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9"):
        find_model("models:/news/1")
