"""A checkpoint of Mistral's architecture with random weights, of any shape."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SPREAD = 0.02
"""Standard deviation of the weights."""
SPECIAL = ("<unk>", "<s>", "</s>")
"""Tokens before the words of a vocabulary."""


@dataclass(frozen=True)
class Shape:
    """The shape of a model, by default that of Mistral 7B."""

    layers: int = 32
    hidden: int = 4096
    mlp: int = 14336
    heads: int = 32
    kv_heads: int = 8
    vocabulary: int = 32000

    def config(self) -> dict[str, int]:
        """Return the shape with the keys of config.json."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
        }


def ensure_checkpoint(folder: Path, shape: Shape) -> None:
    """Create the checkpoint, one layer at a time, unless it exists.

    Raises:
        ValueError: the folder holds a checkpoint of another shape.
    """
    file = folder / "config.json"
    if not file.is_file():
        _create(folder, shape)
    config = json.loads(file.read_text())
    for key, value in shape.config().items():
        if config[key] != value:
            raise ValueError(
                f"{folder} holds a checkpoint with {key} {config[key]} instead of {value}; name"
                " another folder, or delete it"
            )


def _create(folder: Path, shape: Shape) -> None:
    """Write random weights, one file per layer and one for the rest, and a tokenizer."""
    from transformers import AutoModelForCausalLM, MistralConfig

    values: dict[str, Any] = shape.config()
    config = MistralConfig(**values, max_position_embeddings=4096, dtype="bfloat16", pad_token_id=2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    folder.mkdir(parents=True, exist_ok=True)
    words = [f"w{index}" for index in range(len(SPECIAL), shape.vocabulary)]
    save_tokenizer(folder, words)
    weight_map: dict[str, str] = {}
    torch.manual_seed(0)
    for name, empty in _parts(model.state_dict()):
        file = f"model-{name}.safetensors"
        weights = {key: _random_weight(key, tensor.shape) for key, tensor in empty.items()}
        save_file(weights, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(weights, file)
        print(f"wrote {file}", file=sys.stderr)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.architectures = ["MistralForCausalLM"]
    config.save_pretrained(folder)  # last: its presence means that the checkpoint is complete


def _parts(empty: dict[str, torch.Tensor]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Yield the weights of each layer, and those outside the layers, with a name."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in empty.items():
        layer = re.search(r"layers\.(\d+)\.", key)
        parts.setdefault(f"layer-{layer[1]}" if layer else "outside", {})[key] = tensor
    yield from parts.items()


def _random_weight(name: str, shape: torch.Size) -> torch.Tensor:
    weight = torch.empty(shape, dtype=torch.bfloat16)
    return weight.fill_(1) if name.endswith("norm.weight") else weight.normal_(0, SPREAD)


def save_tokenizer(folder: Path, words: Sequence[str]) -> None:
    """Save a tokenizer of complete words, whose ids follow those of `SPECIAL`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: id for id, word in enumerate([*SPECIAL, *words])}
    fast = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, **names)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
