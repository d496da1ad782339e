"""The language-model head: the final representation and the logits of every family."""

import numpy as np
import pytest
import torch
from models import (
    CAUSAL,
    FAMILIES,
    assert_equal,
    auto_class_with_head,
    copy_with_weights,
    make_model,
)
from safetensors import safe_open

from neuroscope.errors import ModelError, NeuroscopeError, ResourceError, SiteError
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.extraction.recorder import Recorder
from neuroscope.extraction.weights import weight_bytes
from neuroscope.sites import COMPONENTS, LAYER_COMPONENTS, Site
from neuroscope.storage.activation_store import read_activations
from neuroscope.studies.store.store import extract_to

SHARED = {  # weight of the head that the embeddings may share
    "bert": "cls.predictions.decoder.weight",
    "roberta": "lm_head.decoder.weight",
    "distilbert": "vocab_projector.weight",
} | dict.fromkeys(CAUSAL, "lm_head.weight")
PROMPTS = ["the black cat sits on the mat .", "a dog", "the engineer is a woman and not old !"]
ALL = {"pool": "none", "token_rule": "all"}
CLOSE = {"atol": 5e-5, "rtol": 0}
WITHOUT_HEAD = [*LAYER_COMPONENTS, "final"]
LOGITS = Site("logits", 1)


def hugging_face_outputs(family, folder, text):
    """Return Hugging Face's last hidden state and logits, (tokens, neurons) each."""
    module = auto_class_with_head(family).from_pretrained(folder).eval()
    tokenizer = load_model(str(folder)).tokenizer
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        final = module.base_model(**inputs).last_hidden_state
        logits = module(**inputs).logits
    return final[0].numpy(), logits[0].numpy()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_final_and_logits_equal_hugging_face(family, side, tied, tmp_path):
    folder = make_model(family, tmp_path, head=True, tie_word_embeddings=tied)
    with safe_open(folder / "model.safetensors", "numpy") as weights:
        assert (SHARED[family] in weights.keys()) is not tied  # noqa: SIM118
    model = load_model(str(folder), head=True, padding_side=side)
    together = extract(model, PROMPTS, ["final", "logits"], **ALL)
    for index, text in enumerate(PROMPTS):
        final, logits = hugging_face_outputs(family, folder, text)
        assert logits.shape[1] == model.checkpoint.neurons("logits")
        alone = extract(model, [text], ["final", "logits"], **ALL)
        for acts, row in ((together, index), (alone, 0)):
            np.testing.assert_allclose(acts["final"][row], final, **CLOSE)
            np.testing.assert_allclose(acts["logits"][row], logits, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_does_not_change_values_at_other_sites(family, family_folder):
    folder = str(family_folder(family, head=True))
    headless, headed = load_model(folder), load_model(folder, head=True)
    assert (headless.has_head, headed.has_head) == (False, True)
    expected = extract(headless, PROMPTS, WITHOUT_HEAD, **ALL)
    assert_equal(extract(headed, PROMPTS, WITHOUT_HEAD, **ALL), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_final_is_the_same_when_streamed(family, family_folder):
    folder = str(family_folder(family, head=True))
    expected = extract(load_model(folder, memory="resident"), PROMPTS, WITHOUT_HEAD)
    assert_equal(extract(load_model(folder, memory="stream"), PROMPTS, WITHOUT_HEAD), expected)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_final_of_an_encoder_is_its_last_residual_stream(family, family_folder):
    model = load_model(str(family_folder(family)))
    acts = extract(model, PROMPTS, ["resid_post.1", "final"])
    np.testing.assert_array_equal(acts["final"], acts["resid_post.1"])


def test_sites_after_the_layers_have_the_number_of_the_last_layer(family_folder):
    model = load_model(str(family_folder("gpt2", head=True)), head=True)
    acts = extract(model, PROMPTS, ["logits", "final.1", "mlp_act"], 0)
    assert acts.sites == (Site("mlp_act", 0), Site("final", 1), Site("logits", 1))
    assert acts["final"] is acts["final.1"]
    with pytest.raises(SiteError, match=r"'logits\.1'"):
        extract(model, PROMPTS, "logits.0")


def test_pooled_logits_are_the_mean_over_tokens(family_folder):
    model = load_model(str(family_folder("llama", head=True)), head=True)
    tokens = extract(model, PROMPTS, "logits", pool="none")["logits"]
    pooled = extract(model, PROMPTS, "logits")["logits"]
    np.testing.assert_allclose(pooled, [values.mean(axis=0) for values in tokens], atol=1e-5)


def test_logits_are_stored_and_read_back(family_folder, tmp_path):
    model = load_model(str(family_folder("gpt2", head=True)), head=True)
    stored = extract_to(tmp_path / "acts", model, PROMPTS, ["final", "logits"])
    expected = extract(model, PROMPTS, ["final", "logits"])
    assert_equal(read_activations(stored.folder), expected, atol=1e-6)
    assert read_activations(stored.folder, "final").sites == (Site("final", 1),)


def test_logits_need_the_head(family_folder):
    model = load_model(str(family_folder("llama", head=True)))
    passes = []
    model.module.register_forward_pre_hook(lambda *_: passes.append(1))
    for read in (lambda: extract(model, PROMPTS, "logits"), lambda: Recorder(model, [LOGITS])):
        with pytest.raises(SiteError, match=r"logits\.1") as raised:
            read()
        assert [option.in_python for option in raised.value.options] == ["head=True"]
    assert passes == []


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_checkpoint_without_a_head_raises_an_error(family, family_folder):
    missing = {"bert": "cls.predictions.bias", "llama": "lm_head.weight"}[family]
    with pytest.raises(ModelError, match=missing):
        load_model(str(family_folder(family)), head=True)


def test_minilm_has_no_head():
    with pytest.raises(ModelError, match=r"'minilm'.*cls\.predictions"):
        load_model("minilm", head=True)


def test_missing_weights_of_a_layer_are_not_taken_for_a_missing_head(family_folder, tmp_path):
    name = "model.layers.1.mlp.down_proj.weight"

    def without(weights):
        return {key: weight for key, weight in weights.items() if key != name}

    folder = copy_with_weights(family_folder("llama", head=True), tmp_path, without)
    with pytest.raises(ModelError, match=f"do not fit.*{name}"):
        load_model(str(folder), head=True)


def test_a_model_with_its_head_is_not_streamed(family_folder, monkeypatch):
    folder = str(family_folder("llama", head=True))
    with pytest.raises(ModelError) as raised:
        load_model(folder, head=True, memory="stream")
    assert option_spellings(raised.value) == {"memory='resident'", "head=False"}
    needed = weight_bytes(find_checkpoint(folder), "float32", head=True)
    monkeypatch.setattr("neuroscope.extraction.models.free_memory", lambda device: needed)
    with pytest.raises(ResourceError) as raised:
        load_model(folder, head=True)
    assert option_spellings(raised.value) == {"memory='resident'", "head=False"}
    assert load_model(folder, head=True, memory="resident").has_head


def option_spellings(error: NeuroscopeError):
    return {option.in_python for option in error.options}


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_size_includes_the_head(family, tmp_path):
    folder = str(make_model(family, tmp_path, head=True, tie_word_embeddings=False))
    module = load_model(folder, head=True).module
    expected = 2 * sum(weight.numel() for weight in module.parameters())
    assert weight_bytes(find_checkpoint(folder), "float16", head=True) == expected


@pytest.mark.parametrize("family", CAUSAL)
def test_every_component_is_read_in_forward_order(family, family_folder):
    model = load_model(str(family_folder(family, head=True)), head=True)
    with Recorder(model, [Site(component, 1) for component in reversed(COMPONENTS)]) as recorder:
        inputs = model.tokenizer("a dog", return_tensors="pt", return_token_type_ids=False)
        assert [site.component for site in recorder.run(inputs)] == list(COMPONENTS)
