"""Loading a model for streaming: the files that are read, and the refused ones."""

import shutil

import pytest
import torch
from models import CAUSAL, FAMILIES, copy_with_config, copy_with_weights, hook_count, make_model
from streamed import LAYERS, assert_close, every_site, is_empty, read

from neuroscope.errors import ModelError, ResourceError
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.extraction.models import load_model
from neuroscope.extraction.weights import weight_bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a four-layer model."""
    return make_model("llama", tmp_path_factory.mktemp("four"), layers=LAYERS)


def without(*names):
    """Return a function that removes weights by name."""
    return lambda weights: {key: value for key, value in weights.items() if key not in names}


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_of_a_checkpoint_with_a_head_are_read(family, tmp_path):
    make_model(family, tmp_path, head=True, shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    expected = read(load_model(str(tmp_path), memory="resident"))
    assert_close(read(load_model(str(tmp_path), memory="stream")), expected)


def test_the_weight_names_of_early_bert_files_are_read(family_folder, tmp_path):
    def early_name(name):
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        return "bert." + name.replace("LayerNorm.bias", "LayerNorm.beta")

    source = family_folder("bert")
    old = copy_with_weights(
        source, tmp_path, lambda weights: {early_name(k): weights[k] for k in weights}
    )
    expected = read(load_model(str(source), memory="resident"))
    assert_close(read(load_model(str(old), memory="stream")), expected)


def test_the_pooler_may_be_missing(family_folder, tmp_path):
    source = family_folder("bert")
    change = without("pooler.dense.weight", "pooler.dense.bias")
    path = str(copy_with_weights(source, tmp_path, change))
    expected = read(load_model(str(source), memory="resident"))
    assert_close(read(load_model(path, memory="stream")), expected)


def test_weights_stored_in_half_precision_are_read_as_float32(folder, tmp_path):
    def halved(weights):
        return {name: weight.bfloat16() for name, weight in weights.items()}

    path = str(copy_with_weights(folder, tmp_path, halved))
    model = load_model(path, memory="stream")
    assert model.dtype == "float32"
    assert_close(read(model), read(load_model(path, memory="resident")))


def test_a_file_that_is_truncated_or_missing_raises_an_error(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    model = load_model(str(tmp_path), memory="stream")
    expected, hooks = read(model), hook_count(model)
    file = tmp_path / "model.safetensors"
    complete = file.rename(tmp_path / "complete")
    file.write_bytes(complete.read_bytes()[: complete.stat().st_size // 2])
    with pytest.raises(ModelError, match=rf"{file} has changed"):
        read(model)
    file.unlink()
    with pytest.raises(ModelError, match=str(file)):
        read(model)
    complete.rename(file)
    assert hook_count(model) == hooks
    assert all(is_empty(model.layer(index)) for index in range(LAYERS))
    assert_close(read(model), expected)


def test_two_layers_must_fit_into_memory(folder, monkeypatch):
    resident = load_model(str(folder), memory="resident")
    layer = max(
        sum(weight.nbytes for weight in resident.layer(index).state_dict().values())
        for index in range(LAYERS)
    )
    free = {"bytes": 1.9 * layer}
    monkeypatch.setattr("neuroscope.extraction.streaming.free_memory", lambda device: free["bytes"])
    for dtype, remedies in (("float32", ["dtype='bfloat16'"]), ("bfloat16", [])):
        free["bytes"] = 1.9 * layer * (1 if dtype == "float32" else 0.5)
        with pytest.raises(ResourceError, match=f"cpu .*{dtype}") as raised:
            load_model(str(folder), memory="stream", dtype=dtype)
        assert [option.in_python for option in raised.value.options] == remedies
    free["bytes"] = 4 * layer
    load_model(str(folder), memory="stream")


@pytest.mark.parametrize(("share", "streamed"), [(0.95, True), (0.85, False)])
def test_a_model_larger_than_the_free_memory_is_streamed(
    share, streamed, folder, monkeypatch, caplog
):
    needed = weight_bytes(find_checkpoint(str(folder)), "bfloat16")
    monkeypatch.setattr("neuroscope.extraction.models.free_memory", lambda device: needed / share)
    assert load_model(str(folder), dtype="bfloat16").streamed == streamed
    assert [record.levelname for record in caplog.records] == ["WARNING"] * streamed
    assert not load_model(str(folder), memory="resident").streamed


@pytest.mark.parametrize("family", FAMILIES)
def test_the_size_is_that_of_the_loaded_weights(family, family_folder):
    model = load_model(str(family_folder(family)), memory="resident", dtype="float16")
    size = sum(weight.nbytes for weight in model.module.parameters())
    assert weight_bytes(model.checkpoint, "float16") == size


@pytest.mark.parametrize("family", CAUSAL)
def test_the_final_norm_is_loaded(family, family_folder):
    model = load_model(str(family_folder(family)), memory="stream")
    assert not is_empty(model.module.get_submodule(model.architecture.final_norm))
    assert every_site(model)[-1].component == "final"


def test_missing_weights_raise_an_error_with_their_name(folder, tmp_path):
    path = copy_with_weights(folder, tmp_path, without("layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r": layers\.1\.mlp\.up_proj\.weight\)"):
        load_model(str(path), memory="stream")


def test_weights_of_another_shape_raise_an_error_with_their_name(folder, tmp_path):
    def replaced(weights):
        return weights | {"norm.weight": torch.ones(3)}

    with pytest.raises(ModelError, match=r": norm\.weight\)"):
        load_model(str(copy_with_weights(folder, tmp_path, replaced)), memory="stream")


def test_integer_weights_raise_an_error_with_their_name(folder, tmp_path):
    def rounded(weights):
        return weights | {"norm.weight": weights["norm.weight"].to(torch.int8)}

    with pytest.raises(ModelError, match=r"norm\.weight .*I8"):
        load_model(str(copy_with_weights(folder, tmp_path, rounded)), memory="stream")


def test_quantised_weights_are_not_streamed(folder, tmp_path):
    def packed(weights):
        parts = {}
        for name, weight in weights.items():
            path = name.removesuffix(".weight")
            if not path.endswith("_proj"):
                parts[name] = weight
                continue
            parts[f"{path}.qweight"] = weight.to(torch.int32)
            parts[f"{path}.scales"] = weight.half()
        return parts

    coded = copy_with_weights(folder, tmp_path / "packed", packed)
    entries = {"quant_method": "gptq", "bits": 4}
    copy_with_config(coded, tmp_path / "model", quantization_config=entries)
    with pytest.raises(ModelError, match="quantization_config") as raised:
        load_model(str(tmp_path / "model"), memory="stream")
    assert [option.in_python for option in raised.value.options] == ["memory='resident'"]


@pytest.mark.parametrize("memory", ["stream", "auto"])
def test_a_damaged_file_raises_an_error_with_its_path(memory, folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match=str(file)):
        load_model(str(tmp_path), memory=memory)


@pytest.mark.parametrize(
    ("index", "file"),
    [
        (None, "model.safetensors.index.json"),
        ("[]", "model.safetensors.index.json"),
        ('{"metadata": {}, "weight_map": {"a": "gone.safetensors"}}', "gone.safetensors"),
    ],
)
def test_a_missing_shard_or_index_raises_an_error_with_its_name(index, file, folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    if index:
        (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=file):
        load_model(str(tmp_path), memory="stream")


@pytest.mark.parametrize("memory", ["auto", "resident", "stream"])
def test_a_missing_device_raises_an_error_with_its_name(memory, folder):
    with pytest.raises(ModelError, match="'cuda:99'"):
        load_model(str(folder), device="cuda:99", memory=memory)
