"""Models that are registered in the embedded MLflow and loaded by their address."""

import inspect
import json
import re
import shutil

import numpy as np
import pytest
from models import make_model
from registered import Register

import neuroscope as ns
from neuroscope.errors import ModelError, NeuroscopeError
from neuroscope.extraction import models as extraction_models
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.reporting import registry
from neuroscope.reporting.tracking_server import embedded_database
from neuroscope.studies.models import find_model


@pytest.fixture
def register(database, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts below the working directory
    return Register(embedded_database(database.parent))


@pytest.fixture
def folder(family_folder, tmp_path):
    """Return a copy of a model's folder, which a test may change."""
    return shutil.copytree(family_folder("bert"), tmp_path / "bert")


def activations_of(name):
    return ns.extract(ns.load_model(name, device="cpu"), ["the cat sits ."], layers=1)


def refusal(name, error=ModelError):
    with pytest.raises(error) as raised:
        find_model(name)
    return str(raised.value)


def test_a_model_that_mlflow_logged_is_loaded_by_alias_and_number(register, folder):
    version = register.log_model(folder, "news")
    register.client.set_registered_model_alias("news", "champion", str(version))
    expected = activations_of(str(folder))
    for name in ("models:/news@champion", "models:/news/1"):
        checkpoint = find_model(name)
        assert (checkpoint.name, checkpoint.revision) == (name, "1")
        assert checkpoint.tokenizer_folder.parts[-2:] == ("components", "tokenizer")
        loaded = activations_of(name)
        np.testing.assert_array_equal(loaded["resid_post.1"], expected["resid_post.1"])
        assert loaded.tokens == expected.tokens
        assert (loaded.provenance.model, loaded.provenance.revision) == (name, "1")


@pytest.mark.parametrize("address", ["path", "file", "run"])
def test_a_plain_folder_is_used_in_place(address, register, folder, home):
    if address == "run":
        register.upload(folder, "news")
    else:
        register.point_to(str(folder) if address == "path" else folder.as_uri(), "news")
    checkpoint = find_model("models:/news/1")
    assert checkpoint.tokenizer_folder is None
    assert checkpoint.fingerprint == find_checkpoint(str(folder)).fingerprint
    assert address == "run" or checkpoint.folder == folder
    assert not (home / "models").exists()
    np.testing.assert_array_equal(
        activations_of("models:/news/1")["resid_post.1"],
        activations_of(str(folder))["resid_post.1"],
    )


def test_the_fingerprint_covers_a_tokenizer_kept_elsewhere(register, folder):
    register.log_model(folder, "news")
    checkpoint = find_model("models:/news/1")
    before = checkpoint.fingerprint
    tokenizer = checkpoint.tokenizer_folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("cat", "cow"))
    assert find_model("models:/news/1").fingerprint != before


def test_an_alias_that_moves_names_another_version(register, folder, tmp_path):
    register.point_to(str(folder), "news")
    register.point_to(str(make_model("bert", tmp_path / "other", seed=1)), "news")
    fingerprints = []
    for version in ("1", "2", "1"):
        register.client.set_registered_model_alias("news", "champion", version)
        checkpoint = find_model("models:/news@champion")
        assert checkpoint.revision == version
        fingerprints.append(checkpoint.fingerprint)
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


def test_a_deleted_version_is_refused_with_those_that_exist(register, folder):
    for _ in range(3):
        register.point_to(str(folder), "news")
    register.client.set_registered_model_alias("news", "champion", "2")
    register.client.delete_model_version("news", "2")
    message = refusal("models:/news/2")
    assert "'news'" in message and "version 2" in message and "1, 3" in message
    assert "'champion'" in refusal("models:/news@champion")


def test_an_unknown_version_is_refused_with_those_that_exist(register, folder, monkeypatch):
    monkeypatch.setattr(registry, "_PAGE", 2)
    for _ in range(5):
        register.point_to(str(folder), "news")
    register.point_to(str(folder), "newsletter")
    for number in ("6", "0"):
        message = refusal(f"models:/news/{number}")
        assert f"version {number}" in message and "1, 2, 3, 4, 5" in message
    register.client.create_registered_model("empty")
    assert "'empty'" in refusal("models:/empty/1")


def test_an_unknown_alias_is_refused_with_those_that_exist(register, folder):
    register.point_to(str(folder), "news")
    assert "'champion'" in refusal("models:/news@champion")
    register.client.set_registered_model_alias("news", "candidate", "1")
    message = refusal("models:/news@champion")
    assert "'news'" in message and "'champion'" in message and "candidate" in message


def test_an_unknown_model_is_refused_with_similar_names(register, folder, monkeypatch):
    assert "'news'" in refusal("models:/news/1")
    monkeypatch.setattr(registry, "_PAGE", 1)
    for name in ("news", "news-long", "weather"):
        register.point_to(str(folder), name)
    message = refusal("models:/newz@champion")
    assert "'newz'" in message and "news" in message and "weather" not in message
    assert "news, news-long, weather" in refusal("models:/something else/1")


@pytest.mark.parametrize("name", ["it's", 'the "best"', "a@b", "two words", "both ' and \""])
def test_a_model_may_have_any_name(name, register, folder):
    register.client.create_registered_model(name)
    register.client.create_model_version(name, str(folder))
    register.client.set_registered_model_alias(name, "x_y-Z", "1")
    assert find_model(f"models:/{name}@x_y-Z").folder == folder
    assert re.search(r"\b1\b", refusal(f"models:/{name}/2"))


@pytest.mark.parametrize(
    "name",
    """models:/ models:/news models:/news/ models:news/1 models:/news/latest models:/news@
    models:/a/b/1 models:/m-0123456789 models://news/1 models:""".split(),
)
def test_a_malformed_address_is_refused(name, home):
    assert f"'{name}'" in refusal(name)
    assert not home.exists()  # nothing was opened


def test_a_version_whose_files_are_gone_is_refused(register, folder):
    register.point_to(str(folder), "news")
    shutil.rmtree(folder)
    message = refusal("models:/news/1")
    assert "version 1" in message and "'news'" in message and str(folder) in message


def test_a_version_with_pickled_weights_only_is_refused(register, folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    register.point_to(str(folder), "news")
    message = refusal("models:/news/1")
    assert "version 1" in message and "pytorch_model.bin" in message


def test_a_model_of_another_library_is_refused(register, tmp_path):
    (tmp_path / "sk").mkdir()
    (tmp_path / "sk" / "model.pkl").write_text("")
    register.point_to(str(tmp_path / "sk"), "news")
    message = refusal("models:/news/1")
    assert "version 1" in message and "model.pkl" in message


def test_a_model_with_code_of_its_own_is_refused(register, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {}}))
    register.point_to(str(folder), "news")
    message = refusal("models:/news/1")
    assert "models:/news/1" in message and "auto_map" in message


def test_other_names_are_found_as_checkpoints(folder):
    assert find_model(str(folder)) == find_checkpoint(str(folder))
    assert "'./nothing'" in refusal("./nothing")


def test_load_model_accepts_a_checkpoint(folder):
    checkpoint = find_checkpoint(str(folder))
    assert ns.load_model(checkpoint, device="cpu").checkpoint is checkpoint


def test_load_model_has_the_options_of_the_extraction():
    assert inspect.signature(ns.load_model) == inspect.signature(extraction_models.load_model)
    with pytest.raises(NeuroscopeError, match="'tpu'"):
        ns.load_model("minilm", attention="tpu")
