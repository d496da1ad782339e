"""Weights in the safetensors files of a checkpoint: their sizes, and reading of single weights."""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.errors import ModelError
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.files import FileVersion, file_version
from neuroscope.options import Dtype

if TYPE_CHECKING:
    import torch

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Name of each number format in torch, by its name in safetensors; others are quantised."""

_COMPARED_AT_ONCE = 2**24  # bytes


@dataclass(frozen=True)
class StoredTensor:
    """Location of one tensor: `size` bytes of `file`, from byte `start`."""

    file: Path
    start: int
    size: int
    shape: tuple[int, ...]
    dtype: str  # name in safetensors, such as "F32"
    version: FileVersion  # of the file when its header was read

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class WeightFiles:
    """Weights of a model without its language-model head, in their files.

    >>> files = WeightFiles(find_checkpoint("minilm"))
    >>> files.stored["encoder.layer.0.output.dense.weight"].shape
    (384, 1536)
    >>> files.read("encoder.layer.0.output.dense.weight", into=torch.empty(384, 1536))

    The names of `stored` are those of the loaded model: if the checkpoint was saved with a head,
    the prefix of names is removed. Weights without this prefix, such as those of the head, are in
    `outside`. `bytes_read` is the number of bytes that `read` has read.
    """

    def __init__(self, checkpoint: Checkpoint):
        """List the weights of a checkpoint.

        Raises:
            ModelError: the list of weight files cannot be read, or a file is missing or damaged.
        """
        self._name = checkpoint.name
        tensors = _stored_tensors(checkpoint)
        prefix = _prefix(tensors, checkpoint.architecture.layers)
        parent = re.sub(r"[^.]+\.$", "", prefix)  # beside `model.bert.` is the head `model.cls.`
        self.prefixes = [path for path in (prefix, parent) if path]
        self.stored: Mapping[str, StoredTensor] = {
            _modern(key.removeprefix(prefix)): tensor
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }
        if doubled := [key for key in tensors if key != (name := _modern(key)) and name in tensors]:
            raise _unloadable(checkpoint.name, f"{doubled[0]} and {_modern(doubled[0])} are stored")
        self.outside: Mapping[str, StoredTensor] = {
            key.removeprefix(parent): tensor
            for key, tensor in tensors.items()
            if not key.startswith(prefix)
        }
        self.bytes_read = 0

    def read(self, name: str, into: "torch.Tensor") -> None:
        """Copy one weight from its file into a tensor.

        Args:
            name: name of a weight in a floating-point format.
            into: tensor of the weight's shape, of any dtype and on any device.

        Raises:
            ModelError: the file cannot be read.
        """
        import torch

        tensor = self.stored[name]
        dtype = getattr(torch, DTYPES[tensor.dtype])
        if into.dtype == dtype and into.device.type == "cpu":
            self._fill(into, name)
        else:
            stored = torch.empty(tensor.shape, dtype=dtype)
            self._fill(stored, name)
            into.copy_(stored)

    def _fill(self, values: "torch.Tensor", name: str) -> None:
        """Read one weight into a CPU tensor of the same shape and number format."""
        import torch

        tensor = self.stored[name]
        try:
            with tensor.file.open("rb") as file:
                if file_version(os.fstat(file.fileno())) != tensor.version:
                    raise ModelError(
                        f"{tensor.file} has changed since model '{self._name}' was loaded",
                        remedy="load the model again",
                    )
                file.seek(tensor.start)
                size = file.readinto(values.view(-1).view(torch.uint8).numpy().data)
        except OSError as error:
            raise _unloadable(self._name, f"{tensor.file} cannot be read: {error}") from error
        if size != tensor.size:
            raise _unloadable(self._name, f"{tensor.file} is truncated within {name}")
        self.bytes_read += size


def weight_bytes(checkpoint: Checkpoint, dtype: Dtype, *, head: bool = False) -> int:
    """Return the size in memory of a model's weights, in bytes, from the headers of its files.

    Args:
        checkpoint: files of the model.
        dtype: number format of the loaded weights.
        head: whether to count everything in the files, the language-model head included. A weight
            that the head shares with the embeddings counts twice if the files contain it twice.

    Raises:
        ModelError: the list of weight files cannot be read, or a file is missing or damaged.
    """
    import torch

    tensors = _stored_tensors(checkpoint) if head else WeightFiles(checkpoint).stored
    element: int = getattr(torch, dtype).itemsize
    return element * sum(tensor.count for tensor in tensors.values())


def _stored_tensors(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """Return the tensors by their names in the files, from the headers of the files.

    Raises:
        ModelError: a file is missing or damaged, or two files have different values of a tensor.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in checkpoint.weight_files:
        for key, tensor in _read_header(file, checkpoint.name):
            first = tensors.setdefault(key, tensor)
            if first is not tensor and not _are_equal(first, tensor, checkpoint.name):
                raise ModelError(
                    f"model '{checkpoint.name}' cannot be loaded: {first.file.name} and {file.name}"
                    f" have different values of {key}",
                    remedy="copy or download its files again",
                )
    return tensors


def _are_equal(a: StoredTensor, b: StoredTensor, model: str) -> bool:
    """Return whether two stored tensors have the same shape, number format and bytes."""
    if (a.shape, a.dtype, a.size) != (b.shape, b.dtype, b.size):
        return False
    try:
        with a.file.open("rb") as first, b.file.open("rb") as second:
            first.seek(a.start)
            second.seek(b.start)
            for start in range(0, a.size, _COMPARED_AT_ONCE):
                size = min(_COMPARED_AT_ONCE, a.size - start)
                if first.read(size) != second.read(size):
                    return False
            return True
    except OSError as error:
        raise _unloadable(model, f"{b.file} cannot be read: {error}") from error


def _read_header(file: Path, model: str) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the tensors that the header of a file lists.

    The header is parsed here because safetensors does not expose the byte offsets.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy"):
            pass  # raises if the file is damaged or truncated
        with file.open("rb") as stream:
            version = file_version(os.fstat(stream.fileno()))
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except (OSError, SafetensorError) as error:
        raise _unloadable(model, f"{file} cannot be read: {error}") from error
    header.pop("__metadata__", None)
    for key, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        shape, dtype = tuple(entry["shape"]), entry["dtype"]
        yield key, StoredTensor(file, start, end - start, shape, dtype, version)


def _unloadable(model: str, reason: str) -> ModelError:
    """Return the error about weight files that cannot be used."""
    return ModelError(
        f"model '{model}' cannot be loaded: {reason}", remedy="copy or download its files again"
    )


def _prefix(keys: Mapping[str, StoredTensor], layers: str) -> str:
    """Return the prefix of the path of the layers: none, or `bert.` in a model with a head."""
    pattern = re.compile(rf"((?:.+?\.)??){re.escape(layers)}\.\d+\.")
    return next((match[1] for key in keys if (match := pattern.match(key))), "")


def _modern(name: str) -> str:
    """Return the current name of a weight; the first BERT files say gamma and beta."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
