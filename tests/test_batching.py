"""Tokenisation, and batches that hold every prompt once within the budget and the memory."""

import itertools
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FAMILIES, assert_equal, hook_count, make_model
from transformers import AutoModel

from neuroscope.errors import NeuroscopeError, PromptError, ResourceError
from neuroscope.extraction import batching
from neuroscope.extraction.batching import batches, padded_widths, tokenise
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.extract import extract, record
from neuroscope.extraction.models import load_model
from neuroscope.prompts import PromptSet
from neuroscope.sites import LAYER_COMPONENTS, resolve_sites

PROMPTS = [
    "the black cat sits on the mat .",
    "a dog",
    "the engineer is a woman and not very old !",
    "the old king walks in the small green house , the young queen runs",
]
CLOSE = {"atol": 5e-5, "rtol": 0}
ALL = {"pool": "none", "token_rule": "all"}


@pytest.fixture(params=FAMILIES)
def model(request, family_folder):
    return load_model(str(family_folder(request.param)))


def block_of(model, prompts):
    return tokenise(model, PromptSet.of(prompts).prompts)


def test_tokens_equal_those_of_hugging_face(model):
    texts = [*PROMPTS, "Unknown wörds, and [MASK] 猫!"]
    for text, tokens in zip(texts, block_of(model, texts), strict=True):
        ids = model.tokenizer(text)["input_ids"]
        assert list(tokens.ids) == ids
        assert list(tokens.texts) == model.tokenizer.convert_ids_to_tokens(ids)


def test_a_prompt_over_the_limit_is_refused_or_truncated(model):
    long = " ".join(["cat"] * 80)
    with pytest.raises(PromptError, match=r"number 2\b.*\b64\b") as raised:
        extract(model, ["a dog", long])
    assert [option.in_python for option in raised.value.options] == ["truncate=True"]
    assert len(extract(model, ["a dog", long], truncate=True).tokens[1]) == 64
    framing = block_of(model, ["cat"]).lengths[0] - 1
    exact = " ".join(["cat"] * (64 - framing))
    assert extract(model, [exact], "resid_post", 0, **ALL)["resid_post.0"][0].shape == (64, 32)


@pytest.mark.parametrize("shuffle", [None, 0, 7])
@pytest.mark.parametrize("budget", [1, 40, 1000])
def test_batches_hold_every_prompt_once_within_the_budget(model, shuffle, budget):
    block = block_of(model, PROMPTS * 5)
    all_batches = list(
        batches(model, block, token_rule="all", budget=TokenBudget(budget), shuffle=shuffle)
    )
    assert sorted(member for batch in all_batches for member in batch.members) == list(range(20))
    assert all(batch.ids.numel() <= budget or len(batch.members) == 1 for batch in all_batches)
    for batch, following in itertools.pairwise(
        all_batches
    ):  # one more prompt would exceed the budget
        longest = max(block.lengths[[*batch.members, following.members[0]]])
        assert longest * (len(batch.members) + 1) > budget


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=30),
    st.integers(1, 90),
    st.sampled_from([1, 4, 16]),
)
def test_a_batch_is_as_large_as_its_longest_prompt_allows(model_of_words, lengths, budget, tile):
    block = block_of(model_of_words, [" ".join(["cat"] * length) for length in lengths])
    all_batches = batches(
        model_of_words, block, token_rule="all", budget=TokenBudget(budget), tile=tile
    )
    rest = np.argsort(-block.lengths, kind="stable")
    for batch in all_batches:
        width = int(padded_widths(block.lengths[rest[0]], tile))
        assert batch.ids.shape[1] == width
        size = max(1, budget // width)
        np.testing.assert_array_equal(batch.members, rest[:size])
        rest = rest[size:]
    assert len(rest) == 0


@pytest.fixture(scope="module")
def model_of_words(family_folder):
    return load_model(str(family_folder("bert")))


@pytest.mark.parametrize("tile", [1, 2, 4, 8, 16])
def test_widths_are_multiples_that_add_at_most_a_third(tile):
    lengths = np.arange(1, 600)
    widths = padded_widths(lengths, tile)
    assert np.all(widths >= lengths) and np.all(3 * widths <= 4 * lengths)
    assert np.all(widths[3 * tile :] % tile == 0)
    assert np.all(np.diff(widths) >= 0)  # so the longest prompt of a batch determines its width


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_beyond_the_token_limit_leaves_values_unchanged(
    family, padding_side, tmp_path, monkeypatch
):
    limit = {"gpt2": {"n_positions": 30}, "roberta": {"max_position_embeddings": 32}}
    config = limit.get(family, {"max_position_embeddings": 30})
    model = load_model(str(make_model(family, tmp_path, **config)), padding_side=padding_side)
    prompts = [*PROMPTS, " ".join(["cat"] * 28)]
    expected = extract(model, prompts, LAYER_COMPONENTS, **ALL)
    monkeypatch.setattr(batching, "tile_rows", lambda device, dtype: 16)
    padded = extract(model, prompts, LAYER_COMPONENTS, **ALL)
    assert_equal(padded, expected, atol=5e-5)
    assert_equal(extract(model, prompts, LAYER_COMPONENTS, **ALL), padded)


def test_the_seed_determines_how_prompts_are_grouped(model):
    block = block_of(model, PROMPTS * 5)

    def groups(shuffle):
        all_batches = batches(
            model, block, token_rule="all", budget=TokenBudget(60), shuffle=shuffle
        )
        return [batch.members.tolist() for batch in all_batches]

    assert groups(3) == groups(3)
    assert len({str(groups(shuffle)) for shuffle in (None, 3, 4)}) == 3
    lengths = block.lengths[[member for group in groups(3) for member in group]]
    assert all(lengths[1:] <= 1.25 * lengths[:-1])  # little padding


@pytest.mark.parametrize("memory", ["resident", "stream"])
@pytest.mark.parametrize("pool", ["mean", "none"])
def test_shuffled_batches_give_the_same_values_in_the_prompts_order(family_folder, memory, pool):
    model = load_model(str(family_folder("llama")), memory=memory)
    block = block_of(model, PROMPTS * 3)
    sites = resolve_sites([*LAYER_COMPONENTS, "final"], "all", model.layer_count)

    def recorded(shuffle):
        options = {"pool": pool, "token_rule": "content", "budget": TokenBudget(60)}
        return dict(record(model, block, sites, **options, shuffle=shuffle))

    expected = recorded(None)
    for seed in (1, 2):
        shuffled = recorded(seed)
        for site in expected:
            np.testing.assert_allclose(shuffled[site], expected[site], **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_tokens_in_a_prompt_are_read_as_hugging_face_reads_them(
    family, side, family_folder
):
    model = load_model(str(family_folder(family)), padding_side=side)
    padding = model.tokenizer.pad_token or model.tokenizer.unk_token
    text = f"the cat {padding} sits on {padding} the mat"
    inputs = model.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    module = AutoModel.from_pretrained(family_folder(family)).eval()
    with torch.inference_mode():
        expected = module(**inputs, output_hidden_states=True).hidden_states[1][0].numpy()
    acts = extract(model, [f"{text} a dog", text], "resid_post.0", pool="none", token_rule="all")
    np.testing.assert_allclose(acts["resid_post.0"][1], expected, atol=1e-5)


def test_results_are_in_the_order_of_the_prompts(model):
    forward = extract(model, PROMPTS, budget=16)
    backward = extract(model, PROMPTS[::-1], budget=16)
    for site in forward:
        np.testing.assert_allclose(forward[site], backward[site][::-1], **CLOSE)
    assert forward.prompts.texts == PROMPTS


def test_batches_of_one_prompt_give_the_same_values(model):
    together = extract(model, PROMPTS, LAYER_COMPONENTS)
    assert_equal(extract(model, PROMPTS, LAYER_COMPONENTS, budget=1), together, atol=5e-5)


def test_a_budget_below_one_token_is_refused():
    with pytest.raises(NeuroscopeError, match=r"\b0\b"):
        TokenBudget(0)


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_a_batch_that_does_not_fit_into_memory_is_divided(model, pool):
    options = {"sites": LAYER_COMPONENTS, "pool": pool, "budget": 200}
    expected = extract(model, PROMPTS * 20, **options)
    with limited_memory(model, tokens=60) as sizes:
        divided = extract(model, PROMPTS * 20, **options)
    assert sizes[0] > 120
    assert sum(size <= 60 for size in sizes) < 40  # prompts run alone only where they must
    assert max(sizes[5:]) <= 60  # later batches are smaller
    assert_equal(divided, expected, atol=5e-5)


def test_a_prompt_that_does_not_fit_into_memory_raises_an_error(model):
    before = hook_count(model)
    with (
        limited_memory(model, tokens=3),
        pytest.raises(ResourceError, match=r"cpu .*\b\d+ tokens") as raised,
    ):
        extract(model, PROMPTS)
    assert [option.in_python for option in raised.value.options] == ["memory='stream'"]
    assert hook_count(model) == before


@contextmanager
def limited_memory(model, tokens):
    """Make passes of more tokens run out of memory; yield the list of the sizes of all passes."""
    sizes = []

    def count(module, args, inputs):
        sizes.append(inputs["input_ids"].numel())
        if sizes[-1] > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.module.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield sizes
    finally:
        hook.remove()
