"""Module paths of each supported model family, one row per family."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuroscope.errors import ModelError


@dataclass(frozen=True)
class Architecture:
    """Module paths of one family, in its model without a language-model head.

    In every family the module `attn_out` ends attention and `down` ends the MLP. So `mlp_act` is
    the input of `down` and `mlp_out` is its output.
    """

    family: str  # `model_type` in config.json
    layers: str  # the list of layers
    attn_out: str  # inside a layer
    down: str  # inside a layer
    causal: bool  # a token sees only the tokens before it
    pre_norm: bool  # resid_post = resid_pre + attn_out + mlp_out; post-norm models rescale the sum
    final_norm: str = ""  # norm after the last layer, which ends the model; empty: there is none
    layer_count: str = "num_hidden_layers"  # this and the next three are keys of config.json
    limit: str = "max_position_embeddings"
    width: str = "hidden_size"
    mlp_width: str = "intermediate_size"
    positions_after_padding: bool = False  # position ids start after the id of the padding token

    def count(self, config: Mapping[str, Any]) -> int:
        """Return the number of layers of the configured model."""
        return int(config[self.layer_count])

    def first_position(self, config: Mapping[str, Any]) -> int:
        """Return the position id of a prompt's first token.

        Raises:
            ModelError: it depends on the padding token, and there is none.
        """
        if not self.positions_after_padding:
            return 0
        padding = config.get("pad_token_id", 1)
        if padding is None:
            raise ModelError(
                f"{self.family} models count positions from pad_token_id, which is null in"
                " config.json",
                remedy="set it to the id of the padding token",
            )
        return int(padding) + 1

    def token_limit(self, config: Mapping[str, Any]) -> int:
        """Return the length in tokens of the longest prompt that the model can read."""
        return int(config[self.limit]) - self.first_position(config)

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
}
_BERT_PATHS: Any = {
    "layers": "encoder.layer",
    "attn_out": "attention.output.dense",
    "down": "output.dense",
    "causal": False,
    "pre_norm": False,
}
_ROWS = (
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
    ),
    Architecture("llama", **_LLAMA_PATHS),
    Architecture("mistral", **_LLAMA_PATHS),
    Architecture("qwen2", **_LLAMA_PATHS),
)
ARCHITECTURES = {row.family: row for row in _ROWS}
"""Family -> its row."""


def architecture_of(config: Mapping[str, Any], name: str) -> Architecture:
    """Return the row for a model's `config.json`.

    Raises:
        ModelError: the family is unknown, or the model is configured as something else.
    """
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        raise ModelError(
            f"model '{name}' is refused: its config.json has model_type {family!r}, and neuroscope"
            f" supports {', '.join(ARCHITECTURES)}"
        )
    row = ARCHITECTURES[family]
    if not row.causal and config.get("is_decoder"):
        raise ModelError(
            f"model '{name}' is refused: {family} models are supported as encoders, and its"
            " config.json sets is_decoder"
        )
    required = (row.layer_count, row.limit, row.width, "vocab_size")
    if missing := [key for key in required if key not in config]:
        raise ModelError(
            f"model '{name}' is refused: its config.json lacks {' and '.join(missing)}"
        )
    return row
