"""Module paths and configuration keys of each supported model family."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuroscope.errors import ModelError
from neuroscope.extraction.rotary import rotary_limit


@dataclass(frozen=True)
class Architecture:
    """Module paths of one model family, relative to the model without its language-model head.

    In every family, `attn_out` is the last module of attention and `down` is the last module of
    the MLP. The site `mlp_act` is therefore the input of `down`, and `mlp_out` its output.
    """

    family: str  # `model_type` in config.json
    layers: str  # path of the list of layers
    attn_out: str  # path within a layer
    down: str  # path within a layer
    causal: bool  # whether a token sees only itself and the tokens before it
    pre_norm: bool  # resid_post = resid_pre + attn_out + mlp_out; post-norm models rescale the sum
    final_norm: str = ""  # path of the norm after the last layer; empty if there is none
    layer_count: str = "num_hidden_layers"  # this and the next three are keys of config.json
    limit: str = "max_position_embeddings"
    width: str = "hidden_size"
    mlp_width: str = "intermediate_size"
    positions_after_padding: bool = False  # whether position ids start after pad_token_id
    rotary: bool = False  # whether positions are rotary embeddings, whose limit can be extended
    gated: bool = False  # whether `mlp_act` is the product of two projections
    activation: str = "hidden_act"  # key of config.json

    def count(self, config: Mapping[str, Any]) -> int:
        """Return the number of layers of the configured model."""
        return int(config[self.layer_count])

    def first_position(self, config: Mapping[str, Any]) -> int:
        """Return the position id of a prompt's first token.

        Raises:
            ModelError: the position depends on pad_token_id, which is null in config.json.
        """
        if not self.positions_after_padding:
            return 0
        padding = config.get("pad_token_id", 1)
        if padding is None:
            raise ModelError(
                f"{self.family} models count positions from pad_token_id, which is null in"
                " config.json",
                remedy="set pad_token_id to the id of the padding token",
            )
        return int(padding) + 1

    def token_limit(self, config: Mapping[str, Any]) -> int:
        """Return the length of the longest prompt that the model can read, in tokens."""
        if self.rotary:
            return rotary_limit(config)
        return int(config[self.limit]) - self.first_position(config)

    def silences(self, config: Mapping[str, Any]) -> bool:
        """Return whether neurons of `mlp_act` are off or on: gated, or with a ReLU."""
        return self.gated or "relu" in str(config.get(self.activation, ""))

    def neurons(self, config: Mapping[str, Any], component: str) -> int:
        """Return the number of neurons of a component; for `logits`, the size of the vocabulary."""
        width = int(config[self.width])
        if component == "mlp_act":
            return int(config.get(self.mlp_width) or 4 * width)  # GPT-2 may omit it
        return int(config["vocab_size"]) if component == "logits" else width


_LLAMA_PATHS: Any = {
    "layers": "layers",
    "attn_out": "self_attn.o_proj",
    "down": "mlp.down_proj",
    "causal": True,
    "pre_norm": True,
    "final_norm": "norm",
    "rotary": True,
    "gated": True,
}
_BERT_PATHS: Any = {
    "layers": "encoder.layer",
    "attn_out": "attention.output.dense",
    "down": "output.dense",
    "causal": False,
    "pre_norm": False,
}
_SUPPORTED = (
    Architecture("bert", **_BERT_PATHS),
    Architecture("roberta", **_BERT_PATHS, positions_after_padding=True),
    Architecture(
        "distilbert",
        layers="transformer.layer",
        attn_out="attention.out_lin",
        down="ffn.lin2",
        causal=False,
        pre_norm=False,
        layer_count="n_layers",
        width="dim",
        mlp_width="hidden_dim",
        activation="activation",
    ),
    Architecture(
        "gpt2",
        layers="h",
        attn_out="attn.c_proj",
        down="mlp.c_proj",
        causal=True,
        pre_norm=True,
        final_norm="ln_f",
        layer_count="n_layer",
        limit="n_positions",
        width="n_embd",
        mlp_width="n_inner",
        activation="activation_function",
    ),
    Architecture("llama", **_LLAMA_PATHS),
    Architecture("mistral", **_LLAMA_PATHS),
    Architecture("qwen2", **_LLAMA_PATHS),
)
ARCHITECTURES = {architecture.family: architecture for architecture in _SUPPORTED}
"""Architecture of each supported family, by `model_type`."""
