"""Differences between the weights of two checkpoints, tensor by tensor and part by part."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from neuroscope.extraction.architectures import Architecture
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.configuration_differences import effective_config
from neuroscope.extraction.tensor_pairs import (
    FOLD,
    TensorPair,
    equal_bytes,
    measure,
    norm,
)
from neuroscope.extraction.weights import DTYPES, StoredTensor, WeightFiles
from neuroscope.progress import Progress

Change = Literal["equal", "converted", "changed", "unmeasured", "removed", "added"]
"""What happened to a tensor: `converted` to another number format without any other change,
`unmeasured` if it differs but no norm can be computed, `removed` if only the base has it."""

Part = str | int
"""Layer, counted from 0, or `embeddings`, `final` (the norm after the last layer) or `head` (all
that follows, the pooler of BERT included)."""

_EMBEDDINGS = re.compile(r"(embeddings|embed_tokens|wte|wpe)\.")
_COMPUTED = re.compile(
    r"(^|\.)(position_ids|token_type_ids|rotary_emb\.\w+|attn\.(bias|masked_bias))$"
)
"""Values that older versions of transformers stored, although config.json determines them."""

_OUTPUT = ("lm_head.weight", "lm_head.decoder.weight", "vocab_projector.weight")
_INPUT = ("embed_tokens.weight", "wte.weight", "embeddings.word_embeddings.weight")
_TIED = {
    **dict.fromkeys((*_OUTPUT, "cls.predictions.decoder.weight"), _INPUT),
    "cls.predictions.decoder.bias": ("cls.predictions.bias",),
    "lm_head.decoder.bias": ("lm_head.bias",),
}
"""Weights of the head -> where the same values are if the files leave them out."""

_VOCABULARY_BIAS = re.compile(r"(predictions|decoder|lm_head|vocab_projector)\.bias$")

_LOW = 0.25  # of the full rank: fine-tuning of all weights needs .35 or more
_THREADS = 8  # more do not read faster
_PIECE = 2**26  # bytes per task of a thread


@dataclass(frozen=True)
class TensorDifference:
    """Difference of one tensor between two checkpoints; norms are Frobenius norms."""

    name: str
    """Name in the model without its head; in the head, the name beside that model."""
    part: Part
    change: Change
    base: StoredTensor | None
    """Shape, number format and place in the base; None if only the candidate has the tensor."""
    candidate: StoredTensor | None
    """Shape, number format and place in the candidate; None if only the base has the tensor."""
    change_norm: float | None = None
    """Norm of candidate - base, over the rows that both have; None if it is not known."""
    base_norm: float | None = None
    """Norm of the base, over the rows that both have; None if it is not known or not needed."""
    rank: int | None = None
    """Number of singular values that hold 99 % of a change's squared norm; see `measure`."""
    nonfinite: tuple[str, ...] = ()
    """Which of `base` and `candidate` contain NaN or infinity, if the tensor changed."""

    @property
    def relative_norm(self) -> float | None:
        """Norm of the change, relative to that of the base; None if the base is 0 or unknown."""
        return _ratio(self.change_norm, self.base_norm)

    @property
    def paired(self) -> bool:
        """Whether both checkpoints have the tensor."""
        return self.base is not None and self.candidate is not None

    @property
    def resized(self) -> bool:
        """Whether both checkpoints have the tensor, with different shapes."""
        shapes = [tensor.shape for tensor in (self.base, self.candidate) if tensor]
        return self.paired and shapes[0] != shapes[1]

    @property
    def low_rank(self) -> bool:
        """Whether the change is a matrix of at most a quarter of the full rank."""
        if self.rank is None or self.base is None:
            return False
        return self.rank <= _LOW * min(FOLD, *self.base.shape)


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
    tensors = _matched(base, candidate)
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
    return _ratio(math.hypot(*filter(None, changes)), math.hypot(*filter(None, norms)))


def _ratio(change: float | None, base: float | None) -> float | None:
    """Return a norm relative to another; None if it is not known or infinite."""
    if change == 0:
        return 0.0
    return change / base if change and base else None


def _matched(base: Checkpoint, candidate: Checkpoint) -> list[TensorDifference]:
    """Return the tensors of two checkpoints, ordered by part, as not yet compared."""
    old, new = _weights(base), _weights(candidate)
    _add_tied(old, new, base)
    _add_tied(new, old, candidate)
    tensors = [
        TensorDifference(
            name=name,
            part=_part_of(name, (base if name in old else candidate).architecture),
            change="added" if name not in old else "removed" if name not in new else "unmeasured",
            base=old.get(name),
            candidate=new.get(name),
        )
        for name in {**old, **new}
    ]
    return sorted(tensors, key=_position)


def _weights(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint by their names, without what config.json determines."""
    files = WeightFiles(checkpoint)
    tensors = {**files.outside, **files.stored}
    return {name: tensor for name, tensor in tensors.items() if not _COMPUTED.search(name)}


def _add_tied(
    tensors: dict[str, StoredTensor], other: Mapping[str, StoredTensor], checkpoint: Checkpoint
) -> None:
    """Add weights of the head that only the other checkpoint stores, if the files imply them."""
    implied = {
        name: tensors[source]
        for name, sources in _TIED.items()
        for source in sources
        if name in other and name not in tensors and source in tensors
    }
    if implied and effective_config(checkpoint).get("tie_word_embeddings"):
        tensors.update(implied)


def _part_of(name: str, architecture: Architecture) -> Part:
    """Return the part of the model to which a tensor belongs."""
    if layer := re.match(rf"{re.escape(architecture.layers)}\.(\d+)\.", name):
        return int(layer[1])
    if _EMBEDDINGS.match(name):
        return "embeddings"
    final = architecture.final_norm
    return "final" if final and name.startswith(f"{final}.") else "head"


def _position(tensor: TensorDifference) -> tuple[int, int, str]:
    """Return the key that sorts tensors by part, then by name."""
    if isinstance(tensor.part, int):
        return 1, tensor.part, tensor.name
    return {"embeddings": 0, "final": 2, "head": 3}[tensor.part], 0, tensor.name


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
