"""Architecture that a config.json asks for, and refusal of entries that contradict it.

Transformers ignores entries that a family does not have. A few others change the computation in a
way that neuroscope does not support.
"""

import json
import re
from collections.abc import Container, Mapping
from typing import Any

from neuroscope.errors import ModelError
from neuroscope.extraction.architectures import ARCHITECTURES, Architecture

_UNSUPPORTED = (
    # other positions
    *("alibi", "use_alibi", "rope_interleave", "rope_interleaved", "rotary_interleaved"),
    *("no_rope_layers", "no_rope_layer_interval", "rotary_dim"),
    # other attention
    *("attention_chunk_size", "attention_window", "attention_sinks", "attention_types"),
    *("qk_norm", "use_qk_norm", "qk_layernorm", "use_qk_layernorm", "qk_layer_norms", "clip_qkv"),
    *("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"),
    *("kv_lora_rank", "q_lora_rank", "num_kv_shared_layers", "multi_query"),
    # other scales
    *("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"),
    *("scale_emb", "scale_depth", "scale_embedding", "scale_embeddings", "logit_scale"),
    # other layers
    *("parallel_attn", "parallel_residual", "use_parallel_residual", "use_parallel_embedding"),
    *("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"),
    *("per_layer_config", "block_configs", "fusion_config", "adapters", "adapter_fusion"),
    *("is_encoder_decoder", "add_cross_attention", "share_layers", "embedding_size"),
    "configuration_files",  # transformers would read another file than config.json
)
"""Keys that must be absent, null, false, 0 or empty."""

_NEUTRAL: Mapping[str, Any] = {
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct", "rotary_emb_fraction"), 1),
    **dict.fromkeys(("use_rope", "use_rotary", "use_position_embeddings"), True),
    **dict.fromkeys(("rms_norm", "use_rms_norm"), True),
    **dict.fromkeys(("num_hidden_groups", "inner_group_num"), 1),  # layers share no weights
}
"""Keys of which only one value, besides null, agrees with the computation."""

_POSITIONS = {
    **dict.fromkeys(("bert", "roberta", "distilbert", "gpt2"), ("absolute", "learned")),
    **dict.fromkeys(("llama", "mistral", "qwen2"), ("rope", "rotary", "rope_1d")),
}
"""Values of position_embedding_type with which each family is computed."""

_TYPES = {
    **dict.fromkeys(("quantization_config", "rope_parameters", "rope_scaling"), dict | None),
    **dict.fromkeys(("layer_types", "architectures"), list | None),
}
"""Types of the values of some keys."""

_WINDOWS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
_ELSEWHERE = ("auto_map", "transformers_weights", "quantization_config")  # checked with the files
_METADATA = re.compile(
    r"_.*|.*token_ids?|.*label.*|.*dropout.*|.*_pdrop|(pooler|summary|unsloth|finetuning|tokenizer)_.*"
    r"|n_ctx|directionality|lang(uage)?|name|license|tags|architectures?|task_specific_params"
    r"|gradient_checkpointing|tie_\w*|torch_dtype|torchscript|use_bfloat16|tf_legacy_loss|output_past"
    r"|(model_)?max_(seq|sequence)?_?length|sentence_transformers|transformers\.js_config"
)
"""Keys about the origin of a model, its training, its tokenizer or its head."""
_MISTRAL_WINDOW = 4096  # in tokens, where config.json does not say


def architecture_of(config: Mapping[str, Any], name: str) -> Architecture:
    """Return the architecture of a model, given its `config.json`.

    Args:
        config: contents of config.json.
        name: name of the model, for error messages.

    Raises:
        ModelError: the family is not supported, config.json lacks a required key, or it asks for
            another computation than that of the family, such as attention to later tokens.
    """
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        raise ModelError(
            f"model '{name}' cannot be loaded: its config.json has model_type {family!r}, and"
            f" neuroscope supports {', '.join(ARCHITECTURES)}"
        )
    architecture = ARCHITECTURES[family]
    required = (architecture.layer_count, architecture.limit, architecture.width, "vocab_size")
    if missing := [key for key in required if key not in config]:
        raise ModelError(
            f"model '{name}' cannot be loaded: its config.json lacks {', '.join(missing)}",
            remedy="check that the folder holds the complete config.json of the model",
        )
    types: dict[str, Any] = {**dict.fromkeys(required, int), **_TYPES}
    for key, expected in types.items():
        if key in config and not isinstance(config[key], expected):
            raise ModelError(
                f"model '{name}' cannot be loaded: its config.json sets {key} to"
                f" {json.dumps(config[key])}, which has the wrong type"
            )
    for key, value in _contradictions(architecture, config).items():
        raise ModelError(
            f"model '{name}' cannot be loaded: its config.json sets {key} to {json.dumps(value)},"
            f" which is not supported in {family} models",
            remedy="use a model whose architecture transformers implements",
        )
    return architecture


def ignored_entries(
    architecture: Architecture, config: Mapping[str, Any], known: Container[str]
) -> list[str]:
    """Return the keys of entries that may describe another computation, but are ignored.

    Args:
        architecture: architecture of the model.
        config: contents of config.json.
        known: keys that transformers follows.
    """
    checked = {*_agreeing(architecture), *_UNSUPPORTED, *_WINDOWS, *_ELSEWHERE}
    return sorted(
        key
        for key, value in config.items()
        if value and key not in known and key not in checked and not _METADATA.fullmatch(key)
    )


def _agreeing(architecture: Architecture) -> dict[str, tuple[Any, ...]]:
    """Return the values, besides null, of some keys that agree with the computation."""
    causal, pre_norm = architecture.causal, architecture.pre_norm
    return {
        "position_embedding_type": _POSITIONS[architecture.family],
        **dict.fromkeys(("is_causal", "causal", "causal_attention"), (causal,)),
        **dict.fromkeys(("causal_mask", "use_causal_mask", "unidirectional"), (causal,)),
        **dict.fromkeys(("use_bidirectional_attention", "bidirectional"), (not causal,)),
        **dict.fromkeys(("pre_norm", "normalize_before", "do_layer_norm_before"), (pre_norm,)),
        **{key: (value,) for key, value in _NEUTRAL.items()},
        "is_decoder": (True, False) if causal else (False,),  # no causal family follows it
    }


def _contradictions(architecture: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of config.json that contradict the computation of its family."""
    agreeing = _agreeing(architecture)
    entries = {key: config[key] for key in agreeing if config.get(key) is not None}
    contradicting = {key: value for key, value in entries.items() if value not in agreeing[key]}
    contradicting |= {key: config[key] for key in _UNSUPPORTED if config.get(key)}
    contradicting |= {key: config[key] for key in _partial_rotations(config)}
    contradicting |= {key: config[key] for key in _second_rotations(config)}
    contradicting |= {key: config[key] for key in _second_names(architecture, config)}
    return contradicting | {key: config[key] for key in _windows(architecture, config)}


def _partial_rotations(config: Mapping[str, Any]) -> list[str]:
    """Return the keys that ask for rotary positions in only a part of each head."""
    return [
        key
        for key in ("rope_parameters", "rope_scaling")
        if isinstance(config.get(key), Mapping) and config[key].get("partial_rotary_factor", 1) != 1
    ]


def _second_names(architecture: Architecture, config: Mapping[str, Any]) -> list[str]:
    """Return the keys that transformers takes for others, and that have another value than those.

    Which of the two it follows depends on their order in the file.
    """
    names = {
        "num_hidden_layers": (architecture.layer_count,),
        "hidden_size": (architecture.width,),
        "max_position_embeddings": (architecture.limit,),
        "num_attention_heads": ("n_head", "n_heads"),
    }
    return [
        general
        for general, own in names.items()
        for key in own
        if general in config and key in config and config[general] != config[key]
    ]


def _second_rotations(config: Mapping[str, Any]) -> list[str]:
    """Return the keys that set rotary positions otherwise than the key that is followed does."""
    followed = config.get("rope_scaling") or config.get("rope_parameters") or {}
    theta, parameters = config.get("rope_theta"), config.get("rope_parameters")
    wrong = {
        "rope_theta": theta not in (None, followed.get("rope_theta", theta)),
        "rope_parameters": parameters and parameters != followed,
    }
    return [key for key, contradicts in wrong.items() if contradicts]


def _windows(architecture: Architecture, config: Mapping[str, Any]) -> list[str]:
    """Return the keys that ask for other sliding windows than those that are computed."""
    windowed = architecture.family == "mistral"
    window = config.get("sliding_window", _MISTRAL_WINDOW if windowed else None)
    if isinstance(window, int) and window <= 0 and _slides(architecture, config):
        return ["sliding_window"]  # transformers fails, as no token would see any other
    if architecture.family == "qwen2":  # transformers follows all these keys
        return []
    limit, kinds = config[architecture.limit], set(map(str, config.get("layer_types") or ()))
    narrow = isinstance(window, int) and isinstance(limit, int) and 0 < window < limit
    switched_off = config.get("use_sliding_window") is False
    if windowed:  # transformers follows layer_types if there is a window
        wrong = {"use_sliding_window": narrow and switched_off, "layer_types": kinds and not window}
    else:  # a window of all tokens changes nothing
        wrong = {
            "sliding_window": narrow and not switched_off,
            "layer_types": kinds - {"full_attention", *(() if narrow else ("sliding_attention",))},
        }
    return [key for key, contradicts in wrong.items() if contradicts]


def _slides(architecture: Architecture, config: Mapping[str, Any]) -> bool:
    """Return whether transformers limits attention to a sliding window, if there is one."""
    if architecture.family == "qwen2":
        return bool(config.get("use_sliding_window"))
    return architecture.family == "mistral"
