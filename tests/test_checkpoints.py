"""Which models are found, and which are refused with a reason."""

import json
import shutil
from pathlib import Path

import pytest

from neuroscope.errors import ModelError
from neuroscope.extraction import checkpoints
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model


@pytest.fixture
def folder(family_folder, tmp_path):
    """A copy of a model's folder that a test may spoil."""
    return Path(shutil.copytree(family_folder("llama"), tmp_path / "model"))


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def hub_cache(folder, cache, name="someone/tiny", commit="c0ffee" * 6 + "abcd"):
    """Lays a model's files out as the hub's cache does: blobs, a snapshot of links, a ref."""
    root = cache / ("models--" + name.replace("/", "--"))
    snapshot = root / "snapshots" / commit
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    snapshot.mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    for index, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, root / "blobs" / f"{index:040x}")
        (snapshot / file.name).symlink_to(root / "blobs" / f"{index:040x}")
    return commit


@pytest.fixture
def cache(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_id_is_read_from_the_hubs_cache(folder, cache):
    commit = hub_cache(folder, cache)
    model = load_model("someone/tiny")
    assert (model.name, model.checkpoint.revision) == ("someone/tiny", commit)
    from_hub, local = (extract(one, ["the cat ."]) for one in (model, load_model(str(folder))))
    assert (from_hub["resid_post.1"] == local["resid_post.1"]).all()
    assert from_hub.provenance.revision == commit
    assert from_hub.provenance.fingerprint == local.provenance.fingerprint


def test_a_revision_on_the_hub_can_be_named(folder, cache):
    commit = hub_cache(folder, cache)
    assert find_checkpoint(f"someone/tiny@{commit}").revision == commit
    with pytest.raises(ModelError, match="someone/tiny@other"):
        find_checkpoint("someone/tiny@other")


@pytest.mark.parametrize("name", ["nothing-here", "someone/nothing"])
def test_an_unknown_hub_id_names_the_remedies(name, cache):
    with pytest.raises(ModelError, match=rf"unknown model '{name}'.*folder.*hub.*minilm"):
        find_checkpoint(name)


@pytest.mark.parametrize("name", ["./nothing", "/nothing/at/all", "no such name!", "a/b/c"])
def test_what_cannot_be_a_hub_id_is_refused(name, cache):
    with pytest.raises(ModelError, match=r"unknown model .*minilm"):
        find_checkpoint(name)


def test_an_unknown_architecture_is_refused(folder):
    change_config(folder, model_type="mamba")
    with pytest.raises(ModelError, match=r"refused.*'mamba'.*bert, roberta"):
        find_checkpoint(str(folder))


def test_an_encoder_set_up_as_a_decoder_is_refused(family_folder, tmp_path):
    folder = Path(shutil.copytree(family_folder("bert"), tmp_path / "model"))
    change_config(folder, is_decoder=True)
    with pytest.raises(ModelError, match="set up as a decoder"):
        find_checkpoint(str(folder))


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"refused.*only pytorch_model.bin.*safetensors"):
        find_checkpoint(str(folder))


def test_no_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights at all"):
        find_checkpoint(str(folder))


def test_remote_code_is_refused(folder, cache):
    change_config(folder, auto_map={"AutoModel": "modeling_own.OwnModel"})
    (folder / "modeling_own.py").write_text("raise SystemExit('this code must never run')")
    hub_cache(folder, cache)
    for name in (str(folder), "someone/tiny"):
        with pytest.raises(ModelError, match=r"refused.*auto_map.*no remote code"):
            find_checkpoint(name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config.json"):
        find_checkpoint(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", '"text"'])
def test_a_damaged_configuration_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"refused.*config.json.*JSON"):
        find_checkpoint(str(folder))


def test_missing_weights_are_refused_rather_than_drawn_at_random(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not fit.*layers.1.mlp.down_proj.weight"):
        load_model(str(folder))


def test_weights_of_another_shape_are_refused(folder):
    change_config(folder, intermediate_size=40)
    with pytest.raises(ModelError, match=r"do not fit|cannot be loaded"):
        load_model(str(folder))


def test_damaged_weights_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder))


def test_the_fingerprint_follows_weights_configuration_and_tokenizer(folder):
    before = find_checkpoint(str(folder)).fingerprint
    assert find_checkpoint(str(folder)).fingerprint == before
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        assert find_checkpoint(str(folder)).fingerprint != before
        (folder / name).write_bytes(content)
    assert find_checkpoint(str(folder)).fingerprint == before
    (folder / "added_tokens.json").write_text('{"zzz": 43}')  # tokenizers read it, too
    assert find_checkpoint(str(folder)).fingerprint != before


def test_the_built_in_model_is_checked_before_it_is_loaded(monkeypatch):
    package, _ = checkpoints.BUILT_IN["minilm"]
    monkeypatch.setitem(checkpoints.BUILT_IN, "minilm", (package, "0" * 64))
    with pytest.raises(ModelError, match=r"refused.*SHA-256 differs.*reinstall"):
        find_checkpoint("minilm")
