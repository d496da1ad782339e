"""Loads a model with its tokenizer; finds the module behind a site."""

import contextlib
import logging
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from neuroscope.errors import ModelError
from neuroscope.extraction.architectures import Architecture
from neuroscope.extraction.checkpoints import (
    READING,
    SAFE,
    Checkpoint,
    find_checkpoint,
    refuse_unfit,
)
from neuroscope.extraction.hardware import resolve_device, resolve_dtype
from neuroscope.extraction.memory import free_memory, keep_few_kernels
from neuroscope.extraction.weights import weight_bytes
from neuroscope.tokens import Vocabulary

if TYPE_CHECKING:
    import torch

    from neuroscope.extraction.streaming import LayerStream

ATTENTIONS = ("sdpa", "eager")
PADDING_SIDES = ("right", "left")
MEMORY = ("auto", "resident", "stream")

_FOR_WEIGHTS = 0.9  # of free memory: batches, too, need some

_log = logging.getLogger("neuroscope")


class Model:
    """A loaded model that stays on its device; made by `load_model`.

    >>> model = load_model("minilm")
    >>> model.layer_count
    6
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        module: Any,
        tokenizer: Any,
        padding_side: str,
        stream: "LayerStream | None" = None,
    ):
        self.checkpoint = checkpoint
        self.module = module
        self.tokenizer = tokenizer
        self.padding_side = padding_side
        self.stream = stream

    def __repr__(self) -> str:
        streamed = ", streamed" if self.streamed else ""
        layers = f"{self.layer_count} layers"
        return f"Model({self.name!r}, {self.architecture.family}, {layers}{streamed})"

    @property
    def streamed(self) -> bool:
        """Whether the layers stay in their files, and are read by `stream_sites` only."""
        return self.stream is not None

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
        device: torch.device = self.stream.device if self.stream else self.module.device
        return device

    @property
    def dtype(self) -> str:
        return str(self.module.dtype).removeprefix("torch.")

    @property
    def attention(self) -> str:
        """Implementation of attention in use, `sdpa` or `eager`."""
        return str(self.module.config._attn_implementation)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Special are the tokens that frame or pad a prompt; [MASK] and [UNK] stand for words."""
        tokenizer = self.tokenizer
        texts = tuple(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
        ids = (
            tokenizer.cls_token_id,
            tokenizer.sep_token_id,
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        )
        special = frozenset(id for id in ids if id is not None)
        return Vocabulary(texts, special, tokenizer.unk_token_id)

    def layer(self, index: int) -> "torch.nn.Module":
        layers: Any = self.module.get_submodule(self.architecture.layers)
        layer: torch.nn.Module = layers[index]
        return layer


def load_model(
    name: str | Checkpoint,
    *,
    device: str = "auto",
    dtype: str = "float32",
    attention: str = "sdpa",
    padding_side: str = "right",
    memory: str = "auto",
) -> Model:
    """Loads a model without its head, ready to be read.

    Args:
        name: `minilm`, a folder, a hub id such as `bert-base-uncased` or `bert-base-uncased@main`,
            or a found checkpoint.
        device: `auto` (a GPU if there is one), `cpu`, `cpu:4` (four threads, for all of this
            process's models), `cuda`, `cuda:1`, `mps`, or `all` (the layers spread over all GPUs).
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 where the device is fast in it.
        attention: `sdpa` or `eager`.
        padding_side: `right` or `left`; results do not depend on it.
        memory: `resident` loads all weights; `stream` leaves those of the layers in their files
            until they are run; `auto` streams where the weights are larger than nine tenths of
            the device's free memory, and logs so.

    Raises:
        ModelError: no such model or option, or the model is refused.
    """
    for option, value, known in (
        ("attention", attention, ATTENTIONS),
        ("padding_side", padding_side, PADDING_SIDES),
        ("memory", memory, MEMORY),
    ):
        if value not in known:
            raise ModelError(f"unknown {option} '{value}': it is one of {', '.join(known)}")
    checkpoint = name if isinstance(name, Checkpoint) else find_checkpoint(name)
    keep_few_kernels()
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)
    streamed = memory == "stream" or (memory == "auto" and _too_large(checkpoint, device, dtype))
    with _loading(checkpoint.name):
        tokenizer = _load_tokenizer(checkpoint)
        if not streamed:
            module = _load_resident(checkpoint, device, dtype, attention)
            return Model(checkpoint, module, tokenizer, padding_side)
        from neuroscope.extraction.streaming import load_streamed

        module, stream = load_streamed(checkpoint, dtype=dtype, attention=attention, device=device)
        return Model(checkpoint, module, tokenizer, padding_side, stream)


def _too_large(checkpoint: Checkpoint, device: str, dtype: str) -> bool:
    """Whether the weights must be streamed, as all of them are larger than the free memory."""
    if checkpoint.quantised or device == "all":
        return False
    needed, free = weight_bytes(checkpoint, dtype), free_memory(device)
    too_large = needed > _FOR_WEIGHTS * free
    if too_large:
        _log.warning(
            "model '%s' takes %.1f GB and %.1f GB are free on %s: its layers are read from their"
            " files one after the other",
            *(checkpoint.name, needed / 1e9, free / 1e9, device),
        )
    return too_large


def _load_tokenizer(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    folder = checkpoint.tokenizer_folder or checkpoint.folder
    tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE)
    if not tokenizer.is_fast:
        raise ModelError(f"model '{checkpoint.name}' is refused: it has no tokenizer.json")
    return tokenizer


def _load_resident(checkpoint: Checkpoint, device: str, dtype: str, attention: str) -> Any:
    import torch
    from transformers import AutoModel

    module, loaded = AutoModel.from_pretrained(
        checkpoint.folder,
        use_safetensors=True,
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
        # straight to where they belong: main memory may be smaller, and quantised ones cannot move
        device_map="auto" if device == "all" else {"": device},
        output_loading_info=True,
        **READING,
    )
    # what is missing would be filled with random numbers
    mismatched = (key for key, *shapes in loaded.get("mismatched_keys", ()))
    refuse_unfit(checkpoint, [*loaded["missing_keys"], *mismatched])
    return module.eval()


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    """Keeps the libraries' notes away while they load; what matters becomes an error."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        with _quiet():
            yield
    except (
        *(OSError, ValueError, RuntimeError, AssertionError, SafetensorError),
        StrictDataclassError,  # of a config.json that contradicts itself
        ImportError,  # of what a quantised checkpoint needs
    ) as error:
        raise ModelError(f"model '{name}' cannot be loaded: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and notes of transformers."""
    import transformers.utils.logging

    notes: Any = transformers.utils.logging
    level = notes.get_verbosity()
    bars = notes.is_progress_bar_enabled()
    notes.set_verbosity_error()
    notes.disable_progress_bar()
    try:
        yield
    finally:
        notes.set_verbosity(level)
        if bars:
            notes.enable_progress_bar()
