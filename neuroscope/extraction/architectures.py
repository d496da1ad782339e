"""Where each family of models keeps what a site names: one row of exact module paths a family."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuroscope.errors import ModelError


@dataclass(frozen=True)
class Architecture:
    """Module paths of one family; those inside a layer are relative to the layer.

    In every family the module `attn_out` ends attention and `down` ends the MLP, so that
    `mlp_act` is the input of `down` and `mlp_out` its output.
    """

    family: str  # `model_type` in config.json
    layers: str  # the list of layers, from the model without its head
    attn_out: str
    down: str
    causal: bool  # a token sees only those before it
    pre_norm: bool  # resid_post = resid_pre + attn_out + mlp_out; post-norm models rescale the sum
    layer_count: str = "num_hidden_layers"  # keys of config.json
    limit: str = "max_position_embeddings"
    width: str = "hidden_size"
    mlp_width: str = "intermediate_size"
    positions_after_padding: bool = False  # position ids begin behind the padding token's id

    def count(self, config: Mapping[str, Any]) -> int:
        """How many layers the configured model has."""
        return int(config[self.layer_count])

    def first_position(self, config: Mapping[str, Any]) -> int:
        """The position id of a prompt's first token.

        Raises:
            ModelError: it follows from the padding token, and there is none.
        """
        if not self.positions_after_padding:
            return 0
        padding = config.get("pad_token_id", 1)
        if padding is None:
            raise ModelError(
                f"a {self.family} model counts positions from its pad_token_id, and config.json has"
                " null there: give it the padding token's id"
            )
        return int(padding) + 1

    def token_limit(self, config: Mapping[str, Any]) -> int:
        """The longest prompt the model can read, in tokens."""
        return int(config[self.limit]) - self.first_position(config)

    def neurons(self, config: Mapping[str, Any], component: str) -> int:
        """How many neurons a component of a layer has."""
        width = int(config[self.width])
        if component != "mlp_act":
            return width
        return int(config.get(self.mlp_width) or 4 * width)  # GPT-2 leaves it out


_LLAMA_PATHS: Any = {
    "layers": "layers",
    "attn_out": "self_attn.o_proj",
    "down": "mlp.down_proj",
    "causal": True,
    "pre_norm": True,
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


def architecture_of(config: Mapping[str, Any], name: str) -> Architecture:
    """The row for a model's `config.json`.

    Raises:
        ModelError: the family is not among the rows, or is set up as something else.
    """
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        raise ModelError(
            f"model '{name}' is refused: its config.json says model_type {family!r}, and neuroscope"
            f" knows the layout of {', '.join(ARCHITECTURES)} only"
        )
    row = ARCHITECTURES[family]
    if not row.causal and config.get("is_decoder"):
        raise ModelError(f"model '{name}' is refused: a {family} set up as a decoder is not read")
    missing = [key for key in (row.layer_count, row.limit, row.width) if key not in config]
    if missing:
        raise ModelError(
            f"model '{name}' is refused: its config.json lacks {' and '.join(missing)}"
        )
    return row
