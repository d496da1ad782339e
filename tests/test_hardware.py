"""Choice of device and number format, and checkpoints that need other libraries."""

import pytest
import torch
from models import assert_equal, copy_with_config

from neuroscope.errors import ModelError, NeuroscopeError
from neuroscope.extraction import hardware, models
from neuroscope.extraction.extract import extract
from neuroscope.extraction.hardware import resolve_device, resolve_dtype, threads_of, tile_rows
from neuroscope.extraction.models import load_model

PROMPTS = ["the black cat sits on the mat .", "a dog"]
SITES = ["resid_post", "mlp_act", "final", "logits"]


@pytest.mark.parametrize(("flag", "dtype"), [("amx_bf16", "bfloat16"), ("avx2", "float32")])
def test_the_auto_dtype_is_bfloat16_if_the_cpu_multiplies_it(monkeypatch, flag, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True})
    assert resolve_dtype("auto", "cpu") == dtype
    assert resolve_dtype("float16", "cpu") == "float16"
    assert resolve_dtype("auto", "mps") == "float32"


@pytest.mark.parametrize(
    ("device", "dtype", "flag", "rows"),
    [
        ("cpu", "bfloat16", "amx_bf16", 16),
        ("cpu", "bfloat16", "avx512_bf16", 1),
        ("cpu", "float32", "amx_bf16", 1),
        ("cuda", "bfloat16", "amx_bf16", 1),
    ],
)
def test_batches_are_padded_to_tiles_in_bfloat16_with_amx(monkeypatch, device, dtype, flag, rows):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True})
    assert tile_rows(device, dtype) == rows


@pytest.mark.parametrize(("fast", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_the_auto_dtype_is_bfloat16_if_the_gpu_supports_it(monkeypatch, fast, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
    assert resolve_dtype("auto", "cuda:1") == dtype


@pytest.mark.parametrize(("cuda", "mps"), [(True, True), (False, True), (False, False)])
def test_the_auto_device_is_a_gpu_if_there_is_one(monkeypatch, cuda, mps):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(hardware, "_has_mps", lambda: mps)
    assert resolve_device("auto") == ("cuda" if cuda else "mps" if mps else "cpu")
    for device, exists in (("cuda", cuda), ("cuda:1", cuda), ("all", cuda), ("mps", mps)):
        if exists:
            assert resolve_device(device) == device
        else:
            with pytest.raises(ModelError, match=f"'{device}'"):
                resolve_device(device)
    with pytest.raises(ModelError, match="'cuda:2'"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("device", ["tpu", "cpu:0", "cuda:x", ""])
def test_an_unknown_device_raises_an_error(device):
    with pytest.raises(NeuroscopeError, match=f"device '{device}'"):
        resolve_device(device)


def test_a_number_of_threads_holds_only_in_the_forward_passes(family_folder):
    assert (threads_of("cpu:3"), threads_of("cpu"), threads_of("cuda:1")) == (3, None, None)
    before, seen = torch.get_num_threads(), []
    for device in ("cpu:3", "cpu"):
        model = load_model(str(family_folder("bert")), device=device)
        model.module.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
        extract(model, PROMPTS, SITES[:1])
        assert torch.get_num_threads() == before
    assert seen == [3, before]


def test_a_model_placed_by_accelerate_gives_the_same_values(family_folder, monkeypatch):
    folder = str(family_folder("llama", head=True))
    expected = extract(load_model(folder, device="cpu", head=True), PROMPTS, SITES)
    monkeypatch.setattr(models, "resolve_device", lambda device: device)
    placed = load_model(folder, device="all", head=True)  # without a GPU that is the CPU
    assert_equal(extract(placed, PROMPTS, SITES), expected)
    with pytest.raises(ModelError) as raised:
        load_model(folder, device="all", memory="stream")
    assert {option.name for option in raised.value.options} == {"device", "memory"}


def test_quantised_checkpoints_need_their_library_and_are_not_streamed(family_folder, tmp_path):
    quantised = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    folder = copy_with_config(family_folder("llama"), tmp_path, quantization_config=quantised)
    with pytest.raises(ModelError, match="bitsandbytes"):
        load_model(str(folder))  # the message says what to install
    with pytest.raises(ModelError, match="quantization_config"):
        load_model(str(folder), memory="stream")
