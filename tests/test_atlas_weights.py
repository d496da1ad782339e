"""What the weights of neurons say: compared with products and cosines computed directly."""

import numpy as np
import pytest
import torch
from models import make_model
from transformers import AutoModel

from neuroscope.errors import ResourceError
from neuroscope.extraction import neuron_weights
from neuroscope.extraction.models import load_model
from neuroscope.extraction.neuron_weights import weight_profile
from neuroscope.sites import resolve_sites

DOWN = {
    "bert": "encoder.layer.{}.output.dense.weight",
    "gpt2": "h.{}.mlp.c_proj.weight",
    "llama": "layers.{}.mlp.down_proj.weight",
}
TOKENS = {
    ("bert", False): "embeddings.word_embeddings.weight",
    ("gpt2", False): "wte.weight",
    ("llama", False): "embed_tokens.weight",
    ("bert", True): "cls.predictions.decoder.weight",
    ("gpt2", True): "lm_head.weight",
    ("llama", True): "lm_head.weight",
}
COUNT = 5


@pytest.fixture(params=sorted(TOKENS), ids=str)
def loaded(request, family_folder):
    """Return a model, the (neurons, width) output weights and the (tokens, width) rows."""
    family, head = request.param
    model = load_model(str(family_folder(family, head=head)), head=head)
    weights = {name: tensor.double() for name, tensor in model.module.state_dict().items()}
    prefix = {"bert": "bert.", "gpt2": "transformer.", "llama": "model."}[family] if head else ""
    down = [weights[prefix + DOWN[family].format(layer)] for layer in range(2)]
    written = torch.cat(down if family == "gpt2" else [matrix.T for matrix in down])
    return model, written.numpy(), weights[TOKENS[family, head]].numpy()


def profile_of(model, component="mlp_act"):
    return weight_profile(model, resolve_sites([component], "all", model.layer_count), COUNT)


def assert_ranked(ranked, expected, *, ascending=False):
    """Compare with the (neurons, candidates) scores from which the first were chosen."""
    ordered = np.sort(expected, axis=1)
    first = ordered[:, :COUNT] if ascending else ordered[:, : -COUNT - 1 : -1]
    np.testing.assert_allclose(ranked.scores, first, atol=1e-5)
    chosen = np.take_along_axis(expected, ranked.indices, axis=1)
    np.testing.assert_allclose(chosen, ranked.scores, atol=1e-5)
    assert all(len(set(row)) == COUNT for row in ranked.indices.tolist())


@pytest.mark.parametrize("neurons", [256, 7])
def test_tokens_are_ranked_by_the_product_of_output_weights_and_their_rows(
    loaded, monkeypatch, neurons
):
    monkeypatch.setattr(neuron_weights, "_NEURONS_AT_ONCE", neurons)
    model, written, rows = loaded
    assert written.shape == (2 * 48, 32) and len(rows) == len(model.vocabulary.texts)
    scores = written @ (rows - rows.mean(axis=0)).T
    profile = profile_of(model)
    assert_ranked(profile.promotes, scores)
    assert_ranked(profile.suppresses, scores, ascending=True)


@pytest.mark.parametrize("pairs", [2**34, 1])
def test_neighbours_are_those_with_the_largest_cosine(loaded, monkeypatch, pairs):
    """With many neurons, neighbours are sought within the layer only."""
    monkeypatch.setattr(neuron_weights, "_MOST_PAIRS", pairs)
    monkeypatch.setattr(neuron_weights, "_SCORES_AT_ONCE", 1000)
    model, written, _ = loaded
    units = written / np.linalg.norm(written, axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    if pairs == 1:
        cosines[:48, 48:] = cosines[48:, :48] = -np.inf
    assert_ranked(profile_of(model).neighbours, cosines)


def test_a_neuron_of_the_residual_stream_is_one_of_its_directions(loaded):
    model, _, rows = loaded
    profile = profile_of(model, "resid_post")
    scores = np.tile((rows - rows.mean(axis=0)).T, (2, 1))
    assert_ranked(profile.promotes, scores)
    assert_ranked(profile.suppresses, scores, ascending=True)
    assert profile.neighbours is None


def test_rows_beyond_the_vocabulary_are_not_tokens(tmp_path):
    """Embeddings are often padded to a round number of rows."""
    size = len(load_model(str(make_model("llama", tmp_path / "plain"))).vocabulary.texts)
    folder = make_model("llama", tmp_path / "padded", vocab_size=size + 64)
    model = load_model(str(folder))
    rows = AutoModel.from_pretrained(folder).embed_tokens.weight.detach().double().numpy()
    assert len(rows) == size + 64
    profile = profile_of(model, "resid_post")
    tokens = rows[:size]
    assert_ranked(profile.promotes, np.tile((tokens - tokens.mean(axis=0)).T, (2, 1)))


def test_layers_may_be_on_other_devices_than_the_embeddings(loaded, monkeypatch):
    """Blocks of neurons are moved to the device of the embeddings before they meet."""
    model, _, _ = loaded
    moved = []
    to = torch.Tensor.to

    def recorded(tensor, *arguments, **settings):
        moved.append((len(tensor), *arguments))
        return to(tensor, *arguments, **settings)

    monkeypatch.setattr(torch.Tensor, "to", recorded)
    profile_of(model)
    blocks = [call for call in moved if call[1:] == (torch.device("cpu"), torch.float32)]
    assert sum(len_ for len_, *_ in blocks) == 2 * 96  # for the tokens, and for the neighbours


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_too_little_memory_is_reported(loaded, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch.Tensor, "topk", fail)
    with pytest.raises(ResourceError, match="not enough memory on cpu"):
        profile_of(loaded[0])


def test_weights_in_half_precision_are_multiplied_in_single(family_folder):
    model = load_model(str(family_folder("bert")), dtype="bfloat16")
    assert profile_of(model).promotes.scores.dtype == np.float32


def test_a_streamed_model_and_logits_have_no_profile(family_folder):
    assert profile_of(load_model(str(family_folder("llama")), memory="stream")) is None
    model = load_model(str(family_folder("llama", head=True)), head=True)
    assert weight_profile(model, resolve_sites(["logits"], "all", 2), COUNT) is None
