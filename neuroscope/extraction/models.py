"""Loads a model with its tokenizer; finds the module behind a site."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from neuroscope.errors import ModelError
from neuroscope.extraction.architectures import Architecture
from neuroscope.extraction.checkpoints import Checkpoint, find_checkpoint

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "eager")
PADDING_SIDES = ("right", "left")


class Model:
    """A loaded model that stays on its device; made by `load_model`.

    >>> model = load_model("minilm")
    >>> model.layer_count
    6
    """

    def __init__(self, checkpoint: Checkpoint, module: Any, tokenizer: Any, padding_side: str):
        self.checkpoint = checkpoint
        self.module = module
        self.tokenizer = tokenizer
        self.padding_side = padding_side

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.architecture.family}, {self.layer_count} layers)"

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def architecture(self) -> Architecture:
        return self.checkpoint.architecture

    @property
    def layer_count(self) -> int:
        return self.checkpoint.layer_count

    @property
    def device(self) -> "torch.device":
        device: torch.device = self.module.device
        return device

    @property
    def dtype(self) -> str:
        return str(self.module.dtype).removeprefix("torch.")

    @property
    def attention(self) -> str:
        """Implementation of attention in use, `sdpa` or `eager`."""
        return str(self.module.config._attn_implementation)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of tokens that frame or pad a prompt; [MASK] and [UNK] stand for words, so not."""
        tokenizer = self.tokenizer
        ids = (
            tokenizer.cls_token_id,
            tokenizer.sep_token_id,
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        )
        return frozenset(id for id in ids if id is not None)

    def layer(self, index: int) -> "torch.nn.Module":
        layers: Any = self.module.get_submodule(self.architecture.layers)
        layer: torch.nn.Module = layers[index]
        return layer


def load_model(
    name: str | Checkpoint,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str = "sdpa",
    padding_side: str = "right",
) -> Model:
    """Loads a model without its head, ready to be read.

    Args:
        name: `minilm`, a folder, a hub id such as `bert-base-uncased` or `bert-base-uncased@main`,
            or a found checkpoint.
        device: `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `float32`, `bfloat16` or `float16`.
        attention: `sdpa` or `eager`.
        padding_side: `right` or `left`; results do not depend on it.

    Raises:
        ModelError: no such model or option, or the model is refused.
    """
    for option, value, known in (
        ("dtype", dtype, DTYPES),
        ("attention", attention, ATTENTIONS),
        ("padding_side", padding_side, PADDING_SIDES),
    ):
        if value not in known:
            raise ModelError(f"unknown {option} '{value}': it is one of {', '.join(known)}")
    checkpoint = name if isinstance(name, Checkpoint) else find_checkpoint(name)
    module, tokenizer = _load(checkpoint, device, dtype, attention)
    return Model(checkpoint, module, tokenizer, padding_side)


def _load(checkpoint: Checkpoint, device: str, dtype: str, attention: str) -> tuple[Any, Any]:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    safe: Any = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, **safe)
            module, loaded = AutoModel.from_pretrained(
                checkpoint.folder,
                use_safetensors=True,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                output_loading_info=True,
                **safe,
            )
    except (OSError, ValueError, RuntimeError, AssertionError, SafetensorError) as error:
        raise ModelError(f"model '{checkpoint.name}' cannot be loaded: {error}") from error
    # what is missing would be filled with random numbers; no site reads the pooler
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
    if missing or loaded.get("mismatched_keys"):
        raise ModelError(
            f"model '{checkpoint.name}' is refused: its weights do not fit its config.json"
            f" (missing or of another shape: {', '.join(map(str, missing[:3])) or 'shapes'})"
        )
    try:
        module = module.to(device).eval()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"device '{device}' cannot be used ({error}): choose cpu") from error
    if not tokenizer.is_fast:
        raise ModelError(f"model '{checkpoint.name}' is refused: it has no tokenizer.json")
    return module, tokenizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' own bars and notes away; what matters becomes an error above."""
    import transformers.utils.logging

    logging: Any = transformers.utils.logging
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
