"""Changes of known kind and size to the weights of a model, and copies of models with them."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.extraction.checkpoints import find_checkpoint

if TYPE_CHECKING:
    import torch

Weights = "dict[str, torch.Tensor]"
MatrixChange = Callable[["torch.Tensor", "torch.Generator"], "torch.Tensor"]
"""Function that changes one matrix; the generator is seeded by the position of the matrix."""

FILE = "model.safetensors"
_LAYER = re.compile(r"\blayers?\.(\d+)\.")


def model_folder(model: str) -> Path:
    """Return the folder of the files of a model."""
    return Path(find_checkpoint(model).folder)


def copy_model(
    source: Path, folder: Path, change: MatrixChange | None = None, layer: int | None = None
) -> Path:
    """Copy the files of a model, and change the matrices of its layers.

    Args:
        source: folder of the model.
        folder: new folder.
        change: change of each matrix; None copies the weights as they are.
        layer: layer to change; None changes all layers. Embeddings and heads are never changed.

    Returns:
        The new folder. Changed matrices are stored in float32.
    """
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    if change is None:
        return folder
    weights = load_file(source / FILE)
    for number, name in enumerate(layer_matrices(weights, layer)):
        generator = torch.Generator().manual_seed(number)
        weights[name] = change(weights[name].float(), generator).contiguous()
    (folder / FILE).unlink()  # not written through, if the copy is a link
    save_file(weights, folder / FILE, metadata={"format": "pt"})
    return folder


def layer_matrices(weights: "dict[str, torch.Tensor]", layer: int | None = None) -> list[str]:
    """Return the names of the matrices of one layer, or of all layers."""
    return [
        name
        for name, values in weights.items()
        if values.ndim == 2
        and (match := _LAYER.search(name))
        and (layer is None or int(match[1]) == layer)
    ]


def add_noise(scale: float) -> MatrixChange:
    """Return a change that adds Gaussian noise; `scale` is in standard deviations of the matrix.

    The noise is the same for all scales, apart from the factor.
    """
    import torch

    def change(matrix: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        noise = torch.randn(matrix.shape, generator=generator)
        return matrix.add(noise * matrix.std(), alpha=scale)

    return change


def prune(share: float) -> MatrixChange:
    """Return a change that sets the smallest magnitudes of a matrix to 0."""

    def change(matrix: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        count = round(share * matrix.numel())
        pruned = matrix.clone().flatten()
        pruned[matrix.abs().flatten().argsort()[:count]] = 0
        return pruned.reshape(matrix.shape)

    return change


def round_to_bfloat16(matrix: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
    """Round a matrix to bfloat16."""
    return matrix.bfloat16().float()


def round_to_integers(bits: int) -> MatrixChange:
    """Return a change that rounds each row to integers, which are scaled by its largest value."""

    def change(matrix: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        step = matrix.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        rounded: torch.Tensor = (matrix / step).round() * step
        return rounded

    return change


def add_low_rank(rank: int, scale: float = 0.06) -> MatrixChange:
    """Return a change that adds products of two random vectors, one per rank.

    The norm of each is `scale` times that of the matrix. The first ones are the same for all ranks.
    """
    import torch

    def change(matrix: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        update = torch.zeros_like(matrix)
        for _ in range(rank):
            left, right = (torch.randn(size, generator=generator) for size in matrix.shape)
            update += torch.outer(left / left.norm(), right / right.norm())
        return matrix.add(update * matrix.norm(), alpha=scale)

    return change
