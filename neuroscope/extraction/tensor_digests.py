"""Digests of a base's tensors, for comparisons in which its files are no longer present."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.tensor_matching import (
    TIED,
    TensorDifference,
    add_tied,
    paired,
    tensors_of,
)
from neuroscope.extraction.tensor_pairs import sha256_of
from neuroscope.extraction.weights import StoredTensor


@dataclass(frozen=True)
class TensorDigest:
    """Shape, number format and content of a tensor whose file may be gone."""

    shape: tuple[int, ...]
    dtype: str
    """Name in safetensors, such as `F32`."""
    sha256: str


def tensor_digests(checkpoint: Checkpoint) -> dict[str, TensorDigest]:
    """Return the digests of all tensors by name, those that a tied head shares included.

    Raises:
        ModelError: a file of weights is missing, damaged or cannot be read.
    """
    tensors = tensors_of(checkpoint)
    add_tied(tensors, dict.fromkeys(TIED, None), checkpoint)
    digests = {tensor: sha256_of(tensor) for tensor in set(tensors.values())}
    return {
        name: TensorDigest(tensor.shape, tensor.dtype, digests[tensor])
        for name, tensor in tensors.items()
    }


def compare_digests(
    base: Checkpoint, digests: Mapping[str, TensorDigest], candidate: Checkpoint
) -> tuple[TensorDifference, ...]:
    """Compare the tensors of a candidate with the digests of those of a base.

    Args:
        base: configuration of the base, whose weights need not be there.
        digests: result of `tensor_digests` for the base.
        candidate: files of the new model.

    Returns:
        One difference per tensor, as from `compare_weights`, but of tensors that differ no norm is
        known.

    Raises:
        ModelError: a file of weights is missing, damaged or cannot be read.
    """
    old: dict[str, StoredTensor] = {
        name: StoredTensor(base.folder, 0, 0, digest.shape, digest.dtype, (0, 0, 0))
        for name, digest in digests.items()
    }
    new = tensors_of(candidate)
    shared = {name for name in old if name not in new and _is_shared(name, digests)}
    old = {name: tensor for name, tensor in old.items() if name not in shared}
    add_tied(new, old, candidate)
    tensors = paired(old, new, base, candidate)
    return tuple(
        replace(tensor, change="equal", change_norm=0.0)
        if tensor.candidate and tensor.base and _has_digest(tensor.candidate, digests[tensor.name])
        else tensor
        for tensor in tensors
    )


def _is_shared(name: str, digests: Mapping[str, TensorDigest]) -> bool:
    """Return whether a tensor of the head is that of the embeddings."""
    return any(digests[name] == digests.get(source) for source in TIED.get(name, ()))


def _has_digest(tensor: StoredTensor, digest: TensorDigest) -> bool:
    """Return whether a tensor has the shape, number format and content of another."""
    same = (tensor.shape, tensor.dtype) == (digest.shape, digest.dtype)
    return same and sha256_of(tensor) == digest.sha256
