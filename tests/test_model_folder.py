"""The weight files of a folder: which are read, whatever the memory mode, and which are refused."""

import json
import shutil

import pytest
from models import copy_with_config, make_model
from safetensors.torch import load_file, save_file
from streamed import assert_close, read

from neuroscope.errors import ModelError
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.extraction.models import load_model

ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-2-7b-hf"}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(family_folder, tmp_path):
    return shutil.copytree(family_folder("llama"), tmp_path / "model")


def write_index(folder, file, weights):
    """Write an index that says that one file contains all weights."""
    entries = {"metadata": {}, "weight_map": dict.fromkeys(weights, file)}
    (folder / INDEX).write_text(json.dumps(entries))


@pytest.fixture
def two_versions(folder):
    """Return a folder with two complete files and no model.safetensors."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    changed = {key: 2 * weight for key, weight in weights.items()}
    save_file(changed, folder / "b.safetensors", metadata={"format": "pt"})
    return folder


def test_an_index_decides_which_files_are_read_and_is_in_the_fingerprint(two_versions):
    weights = load_file(two_versions / "a.safetensors")
    fingerprints, values = [], []
    for file in ("a.safetensors", "b.safetensors"):
        write_index(two_versions, file, weights)
        checkpoint = find_checkpoint(str(two_versions))
        fingerprints.append(checkpoint.fingerprint)
        values.append(read(load_model(checkpoint, memory="resident")))
        assert_close(read(load_model(checkpoint, memory="stream")), values[-1], atol=0)
    assert fingerprints[0] != fingerprints[1]
    with pytest.raises(AssertionError):
        assert_close(*values)


def test_the_single_file_is_read_if_there_is_an_index_too(folder):
    expected = read(load_model(str(folder)))
    weights = load_file(folder / "model.safetensors")
    save_file({key: 2 * weight for key, weight in weights.items()}, folder / "b.safetensors")
    write_index(folder, "b.safetensors", weights)
    for memory in ("resident", "stream"):
        assert_close(read(load_model(str(folder), memory=memory)), expected, atol=0)


def test_an_index_of_all_files_leaves_the_fingerprint_as_it_was(tmp_path):
    folder = make_model("llama", tmp_path, shard_size="20KB")
    before = find_checkpoint(str(folder)).fingerprint
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | {"metadata": {}}))
    assert find_checkpoint(str(folder)).fingerprint == before
    shutil.copy(folder / "model-00001-of-00004.safetensors", folder / "stray.safetensors")
    assert find_checkpoint(str(folder)).fingerprint != before


@pytest.mark.parametrize("file", ["../a.safetensors", "sub/a.safetensors", "/a.safetensors", 3])
def test_an_index_of_files_outside_the_folder_is_refused(file, two_versions):
    write_index(two_versions, file, ["norm.weight"])
    with pytest.raises(ModelError, match=INDEX):
        find_checkpoint(str(two_versions))


def test_an_index_that_only_one_mode_could_read_is_refused(two_versions):
    (two_versions / INDEX).write_text('{"weight_map": {"norm.weight": "a.safetensors"}}')
    with pytest.raises(ModelError, match=r"'metadata'"):
        find_checkpoint(str(two_versions))


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "weights.safetensors"])
def test_a_variant_alone_is_refused_with_its_name(name, folder):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelError, match=rf"only {name}"):
        find_checkpoint(str(folder))


def test_other_weights_than_those_of_both_modes_are_refused(family_folder, tmp_path):
    entries = {"transformers_weights": "b.safetensors"}
    folder = copy_with_config(family_folder("llama"), tmp_path / "explicit", **entries)
    with pytest.raises(ModelError, match=r"'b\.safetensors'"):
        find_checkpoint(str(folder))
    same = {"transformers_weights": "model.safetensors"}
    find_checkpoint(str(copy_with_config(family_folder("llama"), tmp_path / "same", **same)))


def test_a_distributed_checkpoint_beside_the_weights_is_refused(folder):
    part = "shard-00000-model-00001-of-00001.safetensors"
    shutil.copy(folder / "model.safetensors", folder / part)
    with pytest.raises(ModelError, match=part):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("kept", [[], ["config.json"]], ids=["alone", "with config.json"])
@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_is_refused_with_its_base_model(weights, kept, folder, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(ADAPTER))
    shutil.copy(folder / "model.safetensors", adapter / weights)
    for name in kept:
        shutil.copy(folder / name, adapter)
    with pytest.raises(ModelError, match=r"is an adapter.*Llama-2-7b-hf") as raised:
        find_checkpoint(str(adapter))
    assert "merge_and_unload" in raised.value.remedy


@pytest.mark.parametrize("text", ["{}", "[]", "{"])
def test_an_adapter_without_the_name_of_its_base_model_is_refused(text, tmp_path):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match="is an adapter"):
        find_checkpoint(str(tmp_path))


def test_an_adapter_beside_a_complete_model_is_refused(folder):
    # transformers would apply it only if peft were installed
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    with pytest.raises(ModelError, match=r"adapter.*Llama-2-7b-hf") as raised:
        find_checkpoint(str(folder))
    assert "adapter_config.json" in raised.value.remedy
