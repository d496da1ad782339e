"""Which device and number format are used, and what is kept of a layer."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from hypothesis import given
from hypothesis import strategies as st

from neuroscope.errors import ModelError
from neuroscope.extraction import hardware, models
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.extract import extract
from neuroscope.extraction.hardware import resolve_device, resolve_dtype
from neuroscope.extraction.models import load_model
from neuroscope.extraction.pooling import pooling
from neuroscope.prompts import PromptSet

PROMPTS = ["the black cat sits on the mat .", "a dog"]


@pytest.mark.parametrize(("flag", "dtype"), [("amx_bf16", "bfloat16"), ("avx2", "float32")])
def test_auto_is_bfloat16_where_the_processor_multiplies_it(monkeypatch, flag, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True})
    assert resolve_dtype("auto", "cpu") == dtype
    assert resolve_dtype("float16", "cpu") == "float16"
    assert resolve_dtype("auto", "mps") == "float32"


def test_auto_is_bfloat16_on_a_gpu_that_has_it(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has
        )
        assert resolve_dtype("auto", "cuda:1") == ("bfloat16" if has else "float32")


@pytest.mark.parametrize(("cuda", "mps"), [(True, True), (False, True), (False, False)])
def test_auto_is_the_gpu_if_there_is_one(monkeypatch, cuda, mps):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(hardware, "_has_mps", lambda: mps)
    assert resolve_device("auto") == ("cuda" if cuda else "mps" if mps else "cpu")
    for device, there in (("cuda", cuda), ("cuda:1", cuda), ("all", cuda), ("mps", mps)):
        if there:
            assert resolve_device(device) == device
        else:
            with pytest.raises(ModelError, match=f"device '{device}' cannot be used: .*choose cpu"):
                resolve_device(device)
    with pytest.raises(ModelError, match="device 'cuda:2' cannot be used"):
        resolve_device("cuda:2")


def test_the_number_of_threads_goes_with_the_cpu():
    before = torch.get_num_threads()
    try:
        assert resolve_device("cpu:3") == "cpu"
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_model_that_accelerate_places_gives_the_same(family_folder, monkeypatch):
    folder = str(family_folder("llama"))
    one = extract(load_model(folder, device="cpu"), PROMPTS, ["resid_post", "mlp_act"])
    monkeypatch.setattr(models, "resolve_device", lambda device: device)
    placed = load_model(folder, device="all")  # without a GPU it is placed on the CPU
    other = extract(placed, PROMPTS, ["resid_post", "mlp_act"])
    for site in one:
        np.testing.assert_array_equal(one[site], other[site])
    with pytest.raises(ModelError, match="a streamed model runs on one device"):
        load_model(folder, device="all", memory="stream")


def test_a_quantised_checkpoint_is_left_to_transformers(family_folder, tmp_path):
    folder = shutil.copytree(family_folder("llama"), tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"cannot be loaded: .*bitsandbytes"):
        load_model(str(folder))  # it says what is to be installed
    with pytest.raises(ModelError, match="cannot be streamed: its weights are quantised"):
        load_model(str(folder), memory="stream")


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(1, 9)),
    pool=st.sampled_from(["mean", "max", "first", "last", "none"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 10),
)
def test_pooling_is_exact_for_what_it_gets(shape, pool, dtype, seed):
    """bfloat16 values are added up in float32: nothing is lost but what the values lost."""
    random = np.random.default_rng(seed)
    x = torch.from_numpy(random.normal(size=shape).astype("f4")).to(dtype)
    kept = random.random(shape[:2]) < 0.6
    kept[:, random.integers(shape[1])] = True
    found = pooling(pool, torch.from_numpy(kept))(x)
    assert found.dtype == torch.float32
    rows = [values[at] for values, at in zip(x.double().numpy(), kept, strict=True)]
    reduce = {
        "mean": lambda row: row.mean(axis=0),
        "max": lambda row: row.max(axis=0),
        "first": lambda row: row[0],
        "last": lambda row: row[-1],
    }
    expected = np.concatenate(rows) if pool == "none" else np.stack([*map(reduce[pool], rows)])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["mean", "max", "first", "last", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tokens_that_do_not_count_may_hold_anything(pool, dtype):
    x = torch.tensor([[1.0], [3.0], [float("inf")], [float("nan")]], dtype=dtype)[None]
    found = pooling(pool, torch.tensor([[True, True, False, False]]))(x)
    expected = {"mean": [2], "max": [3], "first": [1], "last": [3], "none": [1, 3]}[pool]
    assert found.flatten().tolist() == expected


def test_the_tokenizer_in_bulk_gives_what_hugging_face_gives(family_folder):
    texts = [*PROMPTS, "Unknown wörds, and [MASK] 猫!"]
    for family in FAMILIES:
        model = load_model(str(family_folder(family)))
        block = tokenise(model, PromptSet.of(texts).prompts)
        for text, tokens in zip(texts, block, strict=True):
            ids = model.tokenizer(text)["input_ids"]
            assert list(tokens.ids) == ids
            assert list(tokens.texts) == model.tokenizer.convert_ids_to_tokens(ids)
