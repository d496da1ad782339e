"""Entries of config.json that contradict the computation are refused, and the others are true."""

import numpy as np
import pytest
from models import CAUSAL, FAMILIES, copy_with_config

from neuroscope.errors import ModelError
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model

WINDOWS = ["full_attention", "sliding_attention"]
TRUE = [  # with the fixtures' limit of 64 tokens
    ("llama", {"is_causal": True, "is_decoder": False, "sliding_window": 64}),
    ("llama", {"use_bidirectional_attention": False, "position_embedding_type": "rope"}),
    ("llama", {"sliding_window": 4, "use_sliding_window": False, "attention_bias": False}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    ("mistral", {"is_decoder": True, "layer_types": ["sliding_attention"] * 2}),
    ("mistral", {"sliding_window": None, "use_sliding_window": False}),
    ("mistral", {"sliding_window": 3, "layer_types": WINDOWS}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 3}),
    ("llama", {"rope_theta": 1e4, "sliding_window": 0}),
    ("gpt2", {"num_hidden_layers": 2, "hidden_size": 32, "unidirectional": True}),
    ("gpt2", {"is_decoder": False, "scale_attn_by_inverse_layer_idx": True}),
    ("bert", {"is_causal": False, "position_embedding_type": "absolute"}),
    ("roberta", {"is_decoder": False, "alibi": False}),
    ("distilbert", {"position_embedding_type": None, "sinusoidal_pos_embds": True}),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "entries"), [*((name, {}) for name in FAMILIES), *TRUE])
def test_earlier_tokens_see_later_ones_only_in_encoders(
    family, entries, attention, family_folder, tmp_path
):
    folder = copy_with_config(family_folder(family), tmp_path / "model", **entries)
    for memory in ("resident", "stream"):
        model = load_model(str(folder), attention=attention, memory=memory)
        prompts = ["the black cat sits on the mat", "the black cat sits on a dog", "a dog"]
        acts = extract(model, prompts, "resid_post", pool="none")
        values, other = acts["resid_post.1"][:2]
        change = np.abs(values[:4] - other[:4]).max()
        assert (change < 1e-5) == model.architecture.causal == (family in CAUSAL)


@pytest.mark.parametrize(
    ("family", "entries", "key"),
    [
        *((family, {"is_causal": False}, "is_causal") for family in CAUSAL),
        *((family, {"is_causal": True}, "is_causal") for family in ("bert", "distilbert")),
        ("roberta", {"is_decoder": True}, "is_decoder"),
        ("mistral", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("bert", {"position_embedding_type": "relative_key_query"}, "position_embedding_type"),
        ("roberta", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("llama", {"position_embedding_type": "alibi"}, "position_embedding_type"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("qwen2", {"rope_scaling": {"partial_rotary_factor": 0.5}}, "rope_scaling"),
        ("llama", {"sliding_window": 4}, "sliding_window"),
        ("llama", {"sliding_window": 4, "layer_types": WINDOWS}, "sliding_window"),
        ("mistral", {"sliding_window": None, "layer_types": WINDOWS}, "layer_types"),
        ("mistral", {"use_sliding_window": False}, "use_sliding_window"),
        ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("llama", {"residual_multiplier": 0.2}, "residual_multiplier"),
        ("llama", {"use_qk_norm": True}, "use_qk_norm"),
        ("mistral", {"num_local_experts": 8}, "num_local_experts"),
        ("llama", {"per_layer_config": {"1": {"intermediate_size": 24}}}, "per_layer_config"),
        ("bert", {"pre_norm": True}, "pre_norm"),
        ("llama", {"layer_types": 3}, "layer_types"),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling"),
        ("llama", {"num_hidden_layers": "2"}, "num_hidden_layers"),
        ("mistral", {"max_position_embeddings": None}, "max_position_embeddings"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("llama", {"configuration_files": ["config.4.0.0.json"]}, "configuration_files"),
        ("gpt2", {"num_hidden_layers": 1}, "num_hidden_layers"),
        ("distilbert", {"hidden_size": 16}, "hidden_size"),
        ("gpt2", {"max_position_embeddings": 32}, "max_position_embeddings"),
        ("distilbert", {"num_attention_heads": 2}, "num_attention_heads"),
        ("llama", {"rope_theta": 5e5}, "rope_theta"),
        (
            "qwen2",
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_parameters",
        ),
        ("gpt2", {"unidirectional": False}, "unidirectional"),
        ("llama", {"use_rms_norm": False}, "use_rms_norm"),
        *(("mistral", {"sliding_window": window}, "sliding_window") for window in (0, -1)),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 0}, "sliding_window"),
    ],
    ids=str,
)
def test_entries_that_contradict_the_computation_are_refused(
    family, entries, key, family_folder, tmp_path
):
    folder = copy_with_config(family_folder(family), tmp_path / "model", **entries)
    with pytest.raises(ModelError, match=rf"\b{key}\b"):
        find_checkpoint(str(folder))
