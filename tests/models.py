"""Tiny real models, created from their configurations, and helpers to inspect models."""

import json
import shutil
from pathlib import Path

WORDS = """
the a an cat dog engineer nurse man woman transgender boy girl is was sits on in mat house black
white small very old young and or not red green blue king queen walks runs . , ! ?
""".split()

CAUSAL = ("gpt2", "llama", "mistral", "qwen2")
FAMILIES = ("bert", "roberta", "distilbert", *CAUSAL)

_FRAMES = {  # first token, last token, padding, unknown
    "bert": ("[CLS]", "[SEP]", "[PAD]", "[UNK]"),
    "distilbert": ("[CLS]", "[SEP]", "[PAD]", "[UNK]"),
    "roberta": ("<s>", "</s>", "<pad>", "<unk>"),
    "gpt2": (None, None, None, "<|endoftext|>"),
    "qwen2": (None, None, "<|endoftext|>", "<|endoftext|>"),
    "llama": ("<s>", None, None, "<unk>"),
    "mistral": ("<s>", None, None, "<unk>"),
}


def make_model(
    family: str,
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    head: bool = False,
    shard_size: str = "5GB",
    **config,
) -> Path:
    """Save a model with random weights, large enough to distinguish layers, and a tokenizer.

    `config` replaces entries of the configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModel
    from transformers.utils.logging import disable_progress_bar

    tokenizer = make_tokenizer(family)
    entries = {
        "vocab_size": len(tokenizer),
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    entries |= _shape(family, layers) | config
    torch.manual_seed(seed)
    disable_progress_bar()
    auto = auto_class_with_head(family) if head else AutoModel
    model = auto.from_config(AutoConfig.for_model(family, **entries))
    model.save_pretrained(folder, max_shard_size=shard_size)
    tokenizer.save_pretrained(folder)
    return folder


def auto_class_with_head(family: str):
    """Return the transformers class that loads a family with its language-model head."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForCausalLM if family in CAUSAL else AutoModelForMaskedLM


def _shape(family: str, layers: int) -> dict[str, int]:
    if family == "gpt2":
        return {"n_embd": 32, "n_layer": layers, "n_head": 4, "n_positions": 64, "n_inner": 48}
    if family == "distilbert":
        shape = {"dim": 32, "n_layers": layers, "n_heads": 4, "hidden_dim": 48}
        return shape | {"max_position_embeddings": 64}
    shape = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 64}
    if family in ("llama", "mistral", "qwen2"):
        shape["num_key_value_heads"] = 2
    if family == "mistral":
        shape["sliding_window"] = 4  # shorter than most prompts
    if family == "roberta":
        shape["max_position_embeddings"] = 66  # positions start at 2
    return shape


def make_tokenizer(family: str):
    """Return a tokenizer of the family's type, which adds the same special tokens."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    first, last, pad, unknown = _FRAMES[family]
    # RoBERTa's padding id is 1: its positions count from there
    end = "</s>" if first == "<s>" else None
    special = list(dict.fromkeys(token for token in (first, pad, last, unknown, end) if token))
    fast = (
        _byte_level_bpe(special) if family in ("gpt2", "qwen2") else _word_level(special, unknown)
    )
    framing = [(token, fast.token_to_id(token)) for token in (first, last) if token]
    if framing:
        template = " ".join(token for token in (first, "$A", last) if token)
        fast.post_processor = processors.TemplateProcessing(single=template, special_tokens=framing)
    names = {"unk_token": unknown, "pad_token": pad}
    if family in ("bert", "distilbert"):
        names |= {"cls_token": first, "sep_token": last}
    else:
        names |= {"bos_token": first or unknown, "eos_token": end or unknown}
    names = {key: value for key, value in names.items() if value}
    return PreTrainedTokenizerFast(tokenizer_object=fast, **names)


def _byte_level_bpe(special: list[str]):
    """Return a byte-level BPE tokenizer, which writes a space as Ġ."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    return fast


def _word_level(special: list[str], unknown: str):
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {token: id for id, token in enumerate([*special, *WORDS])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    return fast


def copy_with_config(source: Path, folder: Path, **values) -> Path:
    """Copy a model's folder and change entries of its config.json."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


def copy_with_weights(source: Path, folder: Path, change) -> Path:
    """Copy a model's folder; `change` maps the weights, by name, to those of the copy."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder, dirs_exist_ok=True)
    weights = change(load_file(source / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def hook_count(model) -> int:
    """Return the number of hooks on all modules of a model."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.module.modules()
    )


def assert_equal(activations, expected, *, atol: float = 0) -> None:
    """Fail unless both have the same sites with equal values, exactly by default."""
    import numpy as np

    assert activations.sites == expected.sites
    for site in expected:
        for values, reference in zip(activations[site], expected[site], strict=True):
            np.testing.assert_allclose(values, reference, atol=atol, rtol=0)
