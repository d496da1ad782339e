"""Which device and number format are used, and how large batches become."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from hypothesis import given
from hypothesis import strategies as st

from neuroscope.errors import ModelError, NeuroscopeError
from neuroscope.extraction import hardware, models
from neuroscope.extraction.batching import batches, tokenise
from neuroscope.extraction.budget import TokenBudget
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


def run(budget, rates, batches):
    """Tells the budget of batches whose speed depends on their size; gives the sizes it chose."""
    chosen = []
    for _ in range(batches):
        size = budget()
        chosen.append(size)
        budget.measured(size, size / rates[size])
    return chosen


@pytest.mark.parametrize("best", [256, 1024, 2048, 4096, 16384])
def test_the_fastest_budget_is_found_on_the_first_batches(best):
    sizes = [2**power for power in range(6, 18)]
    rates = {size: 1000 * 0.8 ** abs(math.log2(size / best)) for size in sizes}
    budget = TokenBudget()
    tried = run(budget, rates, 60)
    assert budget.chosen == best
    assert set(tried[:12]) == {1024, 2048, 4096}
    assert set(tried[50:]) == {best}
    assert max(tried) == max(4096, 2 * best if best > 2048 else 0)


def test_a_gain_that_may_be_chance_changes_nothing():
    budget = TokenBudget()
    run(budget, {1024: 900, 2048: 1000, 4096: 1020}, 12)
    assert budget.chosen == budget.usual == 2048


def test_budgets_are_compared_on_batches_of_the_same_time():
    """The machine gets faster all the while: that is no merit of the budget tried last."""
    budget, seconds = TokenBudget(), 1.0
    for _ in range(60):
        tokens = budget()
        seconds *= 0.99
        budget.measured(tokens, tokens * seconds / {2048: 1.0, 4096: 1.2}.get(tokens, 1.1))
    assert budget.chosen == 4096


def test_a_budget_that_the_device_has_no_memory_for_is_not_tried_again():
    budget = TokenBudget()
    run(budget, dict.fromkeys((1024, 2048, 4096), 1000), 2)
    budget.exceeded(4096)
    assert set(run(budget, {2048: 1000}, 20)) == {2048}
    budget.exceeded(2000)
    budget.exceeded(1000)
    assert budget() == budget.usual == 500


def test_the_last_batch_of_a_part_tells_no_speed(family_folder):
    """It is seldom full, and the time until the next part is that of writing."""
    told = []

    class Watched(TokenBudget):
        def measured(self, tokens, seconds):
            told.append(tokens)

    model = load_model(str(family_folder("bert")))
    block = tokenise(model, PromptSet.of(["a dog"] * 10).prompts)
    made = list(batches(model, block, rule="all", budget=Watched(8)))
    assert [len(batch.members) for batch in made] == [2] * 5
    assert told == [8] * 4


def test_a_given_budget_is_kept_and_one_that_holds_nothing_refused():
    assert set(run(TokenBudget(100), {100: 1}, 20)) == {100}
    assert TokenBudget(device="cuda:1").usual == 32768
    with pytest.raises(NeuroscopeError, match="a budget of 0 tokens a batch holds nothing"):
        TokenBudget(0)


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
