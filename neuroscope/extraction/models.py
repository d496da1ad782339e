"""Loading of a model with its tokenizer, and the loaded model."""

import contextlib
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from neuroscope.errors import (
    HeadlessError,
    ModelError,
    NeuroscopeError,
    Option,
    ResourceError,
    SiteError,
)
from neuroscope.extraction.architectures import Architecture
from neuroscope.extraction.checkpoints import SAFE, Checkpoint, find_checkpoint
from neuroscope.extraction.fit import (
    body_path,
    build_empty,
    check_fit,
    log_ignored_entries,
    refuse_unfit,
    refuse_unused,
)
from neuroscope.extraction.hardware import resolve_device, resolve_dtype, threads_of
from neuroscope.extraction.memory import free_memory, keep_few_kernels
from neuroscope.extraction.messages import kept_warnings, passed_on
from neuroscope.extraction.streaming import LayerStream, load_streamed
from neuroscope.extraction.tokenizers import load_tokenizer, vocabulary_of
from neuroscope.extraction.weights import WeightFiles, weight_bytes
from neuroscope.options import (
    Attention,
    Dtype,
    DtypeChoice,
    Memory,
    PaddingSide,
    check_choice,
    choices,
)
from neuroscope.sites import Site
from neuroscope.tokens import Vocabulary

if TYPE_CHECKING:
    import torch

_WEIGHT_SHARE = 0.9  # of the free memory; batches need the rest
_HEADLESS = Option("head", False, "load it without its head")

_log = logging.getLogger("neuroscope")


class Model:
    """Loaded model on its device, created by `load_model`.

    >>> model = load_model("minilm")
    >>> model.layer_count
    6
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        module: Any,
        tokenizer: Any,
        padding_side: PaddingSide,
        stream: LayerStream | None = None,
        warnings: Sequence[str] = (),
        threads: int | None = None,
    ):
        self.checkpoint = checkpoint
        self.module = module
        self.tokenizer = tokenizer
        self.padding_side = padding_side
        self.stream = stream
        self.warnings = tuple(warnings)
        """Warnings about the values, from loading the model."""
        self.lock = threading.RLock()
        """Lock held while hooks are attached: other threads would see them half attached."""
        self.threads = threads
        """Number of CPU threads of the forward passes; None for the usual number of torch."""

    def __repr__(self) -> str:
        streamed = ", streamed" if self.streamed else ""
        layers = f"{self.layer_count} layers"
        return f"Model({self.name!r}, {self.architecture.family}, {layers}{streamed})"

    @property
    def streamed(self) -> bool:
        """Whether the weights of each layer stay in their files until they are needed."""
        return self.stream is not None

    @property
    def has_head(self) -> bool:
        """Whether the model was loaded with its language-model head."""
        return self.body is not self.module

    @property
    def body(self) -> Any:
        """Module of transformers, without the language-model head."""
        return self.module.base_model

    @property
    def name(self) -> str:
        """Name by which the model was found."""
        return self.checkpoint.name

    @property
    def architecture(self) -> Architecture:
        """Module paths of the model's family."""
        return self.checkpoint.architecture

    @property
    def layer_count(self) -> int:
        """Number of layers."""
        return self.checkpoint.layer_count

    @property
    def device(self) -> "torch.device":
        """Device of the inputs."""
        device: torch.device = self.stream.device if self.stream else self.module.device
        return device

    @property
    def dtype(self) -> Dtype:
        """Number format of weights and activations."""
        return cast(Dtype, str(self.module.dtype).removeprefix("torch."))

    @property
    def attention(self) -> Attention:
        """Attention implementation in use."""
        return cast(Attention, self.module.config._attn_implementation)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary of the tokenizer."""
        return vocabulary_of(self.tokenizer)

    def layer(self, index: int) -> "torch.nn.Module":
        """Return the module of one layer; layers are counted from 0."""
        layers: Any = self.body.get_submodule(self.architecture.layers)
        layer: torch.nn.Module = layers[index]
        return layer

    def check_sites(self, sites: Sequence[Site]) -> None:
        """Raise SiteError unless the model has all of these sites."""
        for site in sites:
            site.check(self.layer_count)
            if site.needs_head and not self.has_head:
                raise SiteError(
                    f"{site} cannot be read: model '{self.name}' was loaded without its head",
                    options=[Option("head", True, "load it with its head")],
                )


def check_model(model: object) -> None:
    """Raise ModelError unless `model` is a loaded model."""
    if not isinstance(model, Model):
        raise ModelError(
            f"expected a loaded model, not {model!r}", remedy="load one with load_model(name)"
        )


def load_model(
    name: str | Checkpoint,
    *,
    device: str = "auto",
    dtype: DtypeChoice = "float32",
    attention: Attention = "sdpa",
    padding_side: PaddingSide = "right",
    memory: Memory = "auto",
    head: bool = False,
) -> Model:
    """Load a model, ready for extraction.

    Args:
        name: `minilm`, a folder, a hub id such as `bert-base-uncased` or `bert-base-uncased@main`,
            or a checkpoint from `find_checkpoint`.
        device: device of the model: `auto` (a GPU if there is one), `cpu`, `cpu:4` (four threads
            in its forward passes), `cuda`, `cuda:1`, `mps`, or `all` (the layers are spread over
            all GPUs).
        dtype: number format of weights and activations: `float32`, `bfloat16`, `float16`, or
            `auto` (bfloat16 where the device computes fast in it, else float32).
        attention: attention implementation, `sdpa` or `eager`.
        padding_side: side on which prompts are padded, `right` or `left`; results do not depend on
            it.
        memory: placement of the weights: `resident` loads all of them; `stream` leaves those of the
            layers in their files until they are needed; `auto` streams, and logs a warning, if the
            weights are larger than nine tenths of the device's free memory.
        head: whether to load the language-model head too, which the site `logits` needs. A model
            with its head cannot be streamed. The values of all other sites are the same with and
            without the head.

    Raises:
        NeuroscopeError: an option has an unknown value.
        ModelError: there is no such model, it is refused, it has no head although `head` is true,
            or its files change while they are read.
        ResourceError: the model does not fit into memory and cannot be streamed.
    """
    check_choice("attention", attention, choices(Attention))
    check_choice("padding_side", padding_side, choices(PaddingSide))
    check_choice("memory", memory, choices(Memory))
    keep_few_kernels()
    device, threads = resolve_device(device), threads_of(device)
    dtype = resolve_dtype(dtype, device)
    checkpoint = name if isinstance(name, Checkpoint) else find_checkpoint(name)
    streamed = _must_stream(checkpoint, memory, device, dtype, head)
    stream: LayerStream | None = None
    checkpoint.check_unchanged()  # the fingerprint is that of the files that are now read
    with kept_warnings() as warnings, loading(checkpoint.name):
        tokenizer = load_tokenizer(checkpoint)
        files = WeightFiles(checkpoint)
        module = build_empty(checkpoint, dtype, attention, head=head)
        check_fit(checkpoint, files, module)
        log_ignored_entries(checkpoint, module)
        if streamed:
            stream = load_streamed(checkpoint, files, module, device)
        else:
            module = _load_resident(checkpoint, files, module, device)
    checkpoint.check_unchanged()
    return Model(checkpoint, module, tokenizer, padding_side, stream, warnings, threads)


def _must_stream(
    checkpoint: Checkpoint, memory: Memory, device: str, dtype: Dtype, head: bool
) -> bool:
    """Return whether to stream the model.

    Raises:
        ModelError, ResourceError: the model must be streamed, but `head` is true.
    """
    if memory == "stream" and head:
        raise ModelError(
            f"model '{checkpoint.name}' cannot be streamed with its language-model head",
            options=[Option("memory", "resident", "keep all weights in memory"), _HEADLESS],
        )
    if memory != "auto" or checkpoint.quantised or device == "all":
        return memory == "stream"
    needed, free = weight_bytes(checkpoint, dtype, head=head), free_memory(device)
    if needed <= _WEIGHT_SHARE * free:
        return False
    sizes = f"takes {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free on {device}"
    if head:
        raise ResourceError(
            f"model '{checkpoint.name}' with its head {sizes}",
            options=[Option("memory", "resident", "load it anyway"), _HEADLESS],
            remedy="free some memory",
        )
    _log.warning(
        "model '%s' %s: its layers are read from their files one by one", checkpoint.name, sizes
    )
    return True


def _load_resident(checkpoint: Checkpoint, files: WeightFiles, empty: Any, device: str) -> Any:
    """Load a model with all weights; raise ModelError unless they match config.json.

    Args:
        checkpoint: files of the model.
        files: weights of the model, which have passed `check_fit`.
        empty: model from `build_empty`, with or without its head.
        device: device of the model, from `resolve_device`.
    """
    module, report = type(empty).from_pretrained(
        checkpoint.folder,
        config=empty.config,  # so that both modes compute alike
        use_safetensors=True,
        dtype=empty.dtype,
        attn_implementation=empty.config._attn_implementation,
        # directly to the device: main memory may be smaller, and quantised weights cannot move
        device_map="auto" if device == "all" else {"": device},
        # transformers removes no prefixes but its own, such as `bert.`
        key_mapping={f"^{re.escape(prefix)}": "" for prefix in files.prefixes},
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, with their names
        **SAFE,
    )
    # transformers fills missing weights with random numbers
    missing, body = list(report["missing_keys"]), body_path(module)
    if body:
        _refuse_headless(checkpoint, module, missing)
    refuse_unfit(checkpoint, module, [*missing, *(key for key, *_ in report["mismatched_keys"])])
    if checkpoint.quantised:  # only transformers knows the names of the weights' parts
        unexpected = [name.removeprefix(body) for name in report["unexpected_keys"]]
        refuse_unused(checkpoint, module, unexpected)
    return module.eval()


def _refuse_headless(checkpoint: Checkpoint, module: Any, missing: Sequence[str]) -> None:
    """Raise ModelError if weights of the head are missing.

    Weights that the head shares with the embeddings are not missing.
    """
    body = body_path(module)
    if missing_head := sorted(name for name in missing if not name.startswith(body)):
        raise HeadlessError(
            f"model '{checkpoint.name}' has no language-model head: its files lack"
            f" {', '.join(missing_head[:3])}",
            options=[_HEADLESS],
        )


@contextlib.contextmanager
def loading(name: str) -> Iterator[None]:
    """Pass on the warnings of the libraries that load, and convert exceptions to ModelError."""
    try:
        with passed_on(name):
            yield
    except NeuroscopeError:
        raise
    except Exception as error:  # whatever the libraries run into where files contradict themselves
        reason = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else error
        raise ModelError(f"model '{name}' cannot be loaded: {reason}") from error
