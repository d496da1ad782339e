"""A checkpoint's weights in its safetensors files: how large they are, and reading them singly."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.errors import ModelError
from neuroscope.extraction.checkpoints import Checkpoint

if TYPE_CHECKING:
    import torch

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Name of a number format in safetensors -> in torch; others are quantised, or no weights."""


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: `size` bytes of `file` from `start` on."""

    file: Path
    start: int
    size: int
    shape: tuple[int, ...]
    dtype: str  # as safetensors names it

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class WeightFiles:
    """The weights of a model without its head, in their files.

    >>> files = WeightFiles(find_checkpoint("minilm"))
    >>> files.stored["encoder.layer.0.output.dense.weight"].shape
    (384, 1536)
    >>> files.read("encoder.layer.0.output.dense.weight", into=torch.empty(384, 1536))

    Names are those in the model as it is loaded: without the prefix of a checkpoint that was saved
    with a head, and the weights of that head are left out. `bytes_read` counts what `read` took
    from the files.
    """

    def __init__(self, checkpoint: Checkpoint):
        """
        Raises:
            ModelError: there is no list of weights, a file is missing, or one is damaged.
        """
        self._name = checkpoint.name
        found = {key: one for file in _files(checkpoint) for key, one in self._listed(file)}
        prefix = _prefix(found, checkpoint.architecture.layers)
        self.stored: Mapping[str, StoredTensor] = {
            _modern(key.removeprefix(prefix)): one
            for key, one in found.items()
            if key.startswith(prefix)
        }
        self.bytes_read = 0

    def read(self, name: str, into: "torch.Tensor") -> None:
        """Copies one weight out of its file into a tensor of its shape, of any dtype and device.

        Raises:
            ModelError: it cannot be read, or is stored in a format that is not read.
        """
        import torch

        at = self.stored[name]
        if at.dtype not in _DTYPES:
            raise self._refused(f"{name} is stored as {at.dtype}, and only floats are read")
        dtype = getattr(torch, _DTYPES[at.dtype])
        if into.dtype == dtype and into.device.type == "cpu":
            self._fill(into, name)
        else:
            stored = torch.empty(at.shape, dtype=dtype)
            self._fill(stored, name)
            into.copy_(stored)

    def _fill(self, tensor: "torch.Tensor", name: str) -> None:
        import torch

        at = self.stored[name]
        try:
            with at.file.open("rb") as file:
                file.seek(at.start)
                got = file.readinto(tensor.view(-1).view(torch.uint8).numpy().data)
        except OSError as error:
            raise self._refused(f"{at.file} cannot be read: {error}") from error
        if got != at.size:
            raise self._refused(f"{at.file} ends within {name}: copy it again")
        self.bytes_read += got

    def _listed(self, file: Path) -> Iterator[tuple[str, StoredTensor]]:
        """What the header of a file says it holds."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "numpy"):
                pass  # refuses a file that is damaged or cut
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(length))
        except (OSError, SafetensorError) as error:
            raise self._refused(f"{file} cannot be read: {error}") from error
        header.pop("__metadata__", None)
        for key, one in header.items():
            start, end = (8 + length + offset for offset in one["data_offsets"])
            yield key, StoredTensor(file, start, end - start, tuple(one["shape"]), one["dtype"])

    def _refused(self, fault: str) -> ModelError:
        return ModelError(f"model '{self._name}' cannot be loaded: {fault}")


def weight_bytes(checkpoint: Checkpoint, dtype: str) -> int:
    """Memory that a model's weights take at `dtype`, without its head; only headers are read."""
    import torch

    size: int = getattr(torch, dtype).itemsize
    return size * sum(one.count for one in WeightFiles(checkpoint).stored.values())


def _files(checkpoint: Checkpoint) -> list[Path]:
    """The files of weights: one, or those that an index names."""
    single = checkpoint.folder / "model.safetensors"
    index = checkpoint.folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"model '{checkpoint.name}' cannot be loaded: {checkpoint.folder} holds neither"
            f" {single.name} nor a readable {index.name} ({error})"
        ) from error
    return [checkpoint.folder / name for name in sorted(set(names))]


def _prefix(keys: Mapping[str, StoredTensor], layers: str) -> str:
    """What stands before the path of the layers: nothing, or as in `bert.encoder.layer.0`."""
    pattern = re.compile(rf"((?:.+?\.)??){re.escape(layers)}\.\d+\.")
    return next((match[1] for key in keys if (match := pattern.match(key))), "")


def _modern(name: str) -> str:
    """Today's name of a weight; BERT's first files said gamma and beta."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
