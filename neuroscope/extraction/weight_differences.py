"""Differences between the weights of two checkpoints, tensor by tensor and part by part."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import median

from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.tensor_matching import Change, Part, TensorDifference, matched, ratio
from neuroscope.extraction.tensor_pairs import TensorPair, equal_bytes, measure, norm
from neuroscope.extraction.weights import DTYPES
from neuroscope.progress import Progress

_VOCABULARY_BIAS = re.compile(r"(predictions|decoder|lm_head|vocab_projector)\.bias$")

_THREADS = 8  # more do not read faster
_PIECE = 2**26  # bytes per task of a thread


@dataclass(frozen=True)
class PartDifferences:
    """Differences of one part of a model: how many tensors differ, and by how much."""

    part: Part
    equal: int
    """Number of tensors with equal values."""
    converted: int
    """Number of tensors that differ in their number format only."""
    changed: int
    """Number of tensors that have other values or another shape."""
    unpaired: int
    """Number of tensors that only one of the checkpoints has."""
    relative_norm: float | None
    """|candidate - base| / |base| over all values that both have; None if it is not known."""
    rank: float | None
    """Median rank of the changed matrices; None if no matrix has changed."""


def compare_weights(
    base: Checkpoint, candidate: Checkpoint, progress: Progress
) -> tuple[TensorDifference, ...]:
    """Compare all tensors of two checkpoints, matched by name.

    Embeddings and head may have different numbers of rows; those that both have are compared. A
    head that shares its weights with the embeddings is compared whether or not the files repeat
    them.

    Args:
        base: files of the old model.
        candidate: files of the new model.
        progress: callback for the pieces of files compared, then for the tensors measured.

    Returns:
        One difference per tensor, ordered by part: embeddings, layers, final norm, head.

    Raises:
        ModelError: a file of weights is missing, damaged or cannot be read.
    """
    tensors = matched(base, candidate)
    equal = _equal(tensors, progress)
    differing = [tensor for tensor in tensors if tensor.name not in equal]
    measured = {}
    for number, tensor in enumerate(differing, 1):
        measured[tensor.name] = _measured(tensor)
        progress("measure differences", number, len(differing))
    moved = {tensor.part for tensor in measured.values() if tensor.change_norm}
    return tuple(
        measured.get(tensor.name) or _unchanged(tensor, measure_base=tensor.part in moved)
        for tensor in tensors
    )


def part_differences(tensors: Sequence[TensorDifference]) -> tuple[PartDifferences, ...]:
    """Summarise the differences of tensors by part, in the order in which the parts occur."""
    parts = dict.fromkeys(tensor.part for tensor in tensors)
    return tuple(
        _part(part, [tensor for tensor in tensors if tensor.part == part]) for part in parts
    )


def _part(part: Part, tensors: Sequence[TensorDifference]) -> PartDifferences:
    """Summarise the differences of the tensors of one part."""
    counts = Counter(tensor.change for tensor in tensors if not tensor.resized)
    ranks = [tensor.rank for tensor in tensors if tensor.rank is not None]
    unpaired = counts["removed"] + counts["added"]
    return PartDifferences(
        part=part,
        equal=counts["equal"],
        converted=counts["converted"],
        changed=len(tensors) - counts["equal"] - counts["converted"] - unpaired,
        unpaired=unpaired,
        relative_norm=_pooled([tensor for tensor in tensors if tensor.paired]),
        rank=median(ranks) if ranks else None,
    )


def _pooled(tensors: Sequence[TensorDifference]) -> float | None:
    """Return the relative norm of the change of several tensors; None if it is not known."""
    changes = [tensor.change_norm for tensor in tensors]
    if tensors and not any(change != 0 for change in changes):
        return 0.0
    norms = [tensor.base_norm for tensor in tensors]
    if not tensors or None in changes or None in norms:
        return None
    return ratio(math.hypot(*filter(None, changes)), math.hypot(*filter(None, norms)))


def _pair(tensor: TensorDifference) -> TensorPair | None:
    """Return the values of a tensor that can be compared; None if there are none."""
    base, candidate = tensor.base, tensor.candidate
    if base is None or candidate is None:
        return None
    if base.shape == candidate.shape:
        return TensorPair(base, candidate, base.shape[0] if base.shape else 1)
    table = tensor.part in ("embeddings", "head") and len(base.shape) == 2
    tokens = table or _VOCABULARY_BIAS.search(tensor.name)
    if not tokens or base.shape[1:] != candidate.shape[1:] or not candidate.shape:
        return None
    return TensorPair(base, candidate, min(base.shape[0], candidate.shape[0]))


def _equal(tensors: Sequence[TensorDifference], progress: Progress) -> set[str]:
    """Return the names of the tensors of which all bytes that can be compared are equal."""
    pairs = {tensor.name: pair for tensor in tensors if (pair := _pair(tensor))}
    pairs = {name: pair for name, pair in pairs.items() if pair.same_format}
    pieces = [
        (name, start)
        for name, pair in pairs.items()
        if not pair.same_place
        for start in range(0, pair.size, _PIECE)
    ]

    def is_equal(piece: tuple[str, int]) -> bool:
        pair, start = pairs[piece[0]], piece[1]
        return equal_bytes(pair, start, min(start + _PIECE, pair.size))

    equal = set(pairs)
    with ThreadPoolExecutor(_THREADS) as pool:
        results = zip(pieces, pool.map(is_equal, pieces), strict=True)
        for number, ((name, _), same) in enumerate(results, 1):
            if not same:
                equal.discard(name)
            progress("compare weights", number, len(pieces))
    return equal


def _measured(tensor: TensorDifference) -> TensorDifference:
    """Return the difference of a tensor whose bytes differ."""
    pair = _pair(tensor)
    if pair is None or not {pair.base.dtype, pair.candidate.dtype} <= set(DTYPES):
        return tensor
    difference = measure(pair)
    unchanged: Change = "equal" if pair.same_format else "converted"
    return replace(
        tensor,
        change=unchanged if difference.converted else "changed",
        change_norm=difference.change_norm,
        base_norm=difference.base_norm,
        rank=None if difference.converted else difference.rank,
        nonfinite=difference.nonfinite,
    )


def _unchanged(tensor: TensorDifference, *, measure_base: bool) -> TensorDifference:
    """Return the difference of a tensor whose bytes are equal."""
    pair = _pair(tensor)
    decoded = measure_base and pair is not None and pair.base.dtype in DTYPES
    size = norm(pair.base, pair.rows) if pair and decoded else None
    return replace(tensor, change="equal", change_norm=0.0, base_norm=size)
