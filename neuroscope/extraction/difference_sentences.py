"""Sentences about the differences between two checkpoints."""

import json
from collections.abc import Iterator, Sequence
from statistics import median

from neuroscope.extraction.configuration_differences import ConfigurationDifference
from neuroscope.extraction.tensor_matching import Part, TensorDifference
from neuroscope.extraction.tokenizer_differences import TokenizerDifferences
from neuroscope.extraction.weight_differences import PartDifferences
from neuroscope.extraction.weights import DTYPES
from neuroscope.labels import counted, shortened

_NAMED = 3  # tensors that a sentence names
_LONGEST = 40  # value of an entry of config.json, in characters
_OUTCOMES = ("untouched", "converted", "resized", "changed")


def sentences(
    configuration: Sequence[ConfigurationDifference],
    tokenizer: TokenizerDifferences,
    tensors: Sequence[TensorDifference],
    parts: Sequence[PartDifferences],
) -> tuple[str, ...]:
    """Return the differences in words, one sentence without a full stop each.

    Args:
        configuration: entries of config.json that differ.
        tokenizer: differences of the tokenizers.
        tensors: one difference per tensor.
        parts: one summary per part.
    """
    for entry in configuration:
        if entry.key == "model_type":
            return (f"other architecture ({entry.base} to {entry.candidate})",)
    beside = (*_configuration(configuration), *_tokens(tokenizer))
    formats = _formats(tensors)
    outcomes = {_outcome(part) for part in parts}
    paired = all(tensor.paired for tensor in tensors)
    if not beside and paired and outcomes == {"untouched"}:
        return ("identical",)
    if not beside and paired and outcomes <= {"untouched", "converted"}:
        return (f"only the number format differs ({formats})",)
    details = (*_rows(tensors), *_unpaired(tensors), *_low_rank(tensors), *_unmeasured(tensors))
    stored = (f"number format: {formats}",) if formats else ()
    return (*beside, *_outcomes(parts), *stored, *details, *_nonfinite(tensors))


def _configuration(entries: Sequence[ConfigurationDifference]) -> Iterator[str]:
    """Yield a sentence about the entries of config.json that differ."""
    if entries:
        changes = [
            f"{each.key} ({_short(each.base)} to {_short(each.candidate)})" for each in entries
        ]
        yield f"configuration: {', '.join(changes)}"


def _short(value: object) -> str:
    """Return a value of config.json, shortened."""
    return shortened(json.dumps(value), _LONGEST)


def _tokens(tokenizer: TokenizerDifferences) -> Iterator[str]:
    """Yield sentences about tokens that were added, removed or renumbered, and about rules."""
    if tokenizer.added:
        yield f"{counted(tokenizer.added, 'token')} added"
    if tokenizer.removed:
        yield f"{counted(tokenizer.removed, 'token')} removed"
    if tokenizer.renumbered:
        yield f"{counted(tokenizer.renumbered, 'token')} renumbered"
    if tokenizer.rules:
        yield f"other rules of the tokenizer: {', '.join(tokenizer.rules)}"


def _outcome(part: PartDifferences) -> str | None:
    """Return what happened to a part; None if no tensor of it is in both checkpoints."""
    if part.changed:
        return "resized" if part.relative_norm == 0 else "changed"
    if part.converted:
        return "converted"
    return "untouched" if part.equal else None


def _outcomes(parts: Sequence[PartDifferences]) -> Iterator[str]:
    """Yield a sentence about which parts are untouched and which have changed."""
    groups = {
        outcome: [part.part for part in parts if _outcome(part) == outcome] for outcome in _OUTCOMES
    }
    yield "; ".join(f"{_named(group)} {outcome}" for outcome, group in groups.items() if group)


def _named(parts: Sequence[Part]) -> str:
    """Return the names of parts, such as `embeddings, layers 0-3, head`."""
    layers = [part for part in parts if isinstance(part, int)]
    starts = [layer for layer in layers if layer - 1 not in layers]
    ends = [layer for layer in layers if layer + 1 not in layers]
    ranges = [
        str(start) if start == end else f"{start}-{end}"
        for start, end in zip(starts, ends, strict=True)
    ]
    words = f"layer{'s' * (len(layers) > 1)} {', '.join(ranges)}"
    names = {part: "final norm" if part == "final" else part for part in parts}
    texts = [words if isinstance(name, int) else name for name in names.values()]
    return ", ".join(dict.fromkeys(texts))


def _formats(tensors: Sequence[TensorDifference]) -> str:
    """Return the number formats that differ, such as `F32 to BF16`; empty if none do."""
    pairs = [
        (each.base.dtype, each.candidate.dtype) for each in tensors if each.base and each.candidate
    ]
    return ", ".join(dict.fromkeys(f"{old} to {new}" for old, new in pairs if old != new))


def _rows(tensors: Sequence[TensorDifference]) -> Iterator[str]:
    """Yield sentences about tensors of which a part was compared because of other shapes."""
    for tensor in tensors:
        if tensor.resized and tensor.change != "unmeasured" and tensor.base and tensor.candidate:
            rows = tensor.base.shape[0], tensor.candidate.shape[0]
            yield f"{tensor.name}: {rows[0]:,} to {rows[1]:,} rows"


def _unpaired(tensors: Sequence[TensorDifference]) -> Iterator[str]:
    """Yield sentences about tensors that only one checkpoint has."""
    for change, model in (("removed", "base"), ("added", "candidate")):
        if only := [tensor for tensor in tensors if tensor.change == change]:
            parts = list(dict.fromkeys(tensor.part for tensor in only))
            yield f"only in the {model}: {_named(parts)} ({_listed(only)})"


def _low_rank(tensors: Sequence[TensorDifference]) -> Iterator[str]:
    """Yield a sentence if every change of a matrix in the layers has a low rank."""
    matrices = [
        tensor
        for tensor in tensors
        if isinstance(tensor.part, int)
        and tensor.change == "changed"
        and tensor.base
        and len(tensor.base.shape) == 2
    ]
    if matrices and all(tensor.low_rank for tensor in matrices):
        rank = median(tensor.rank for tensor in matrices if tensor.rank)
        modules = dict.fromkeys(_within_layer(tensor) for tensor in matrices)
        yield f"low-rank update (rank about {rank:.0f}) of {', '.join(modules)}"


def _within_layer(tensor: TensorDifference) -> str:
    """Return the path of a tensor's module within its layer."""
    return tensor.name.partition(f".{tensor.part}.")[2].removesuffix(".weight")


def _unmeasured(tensors: Sequence[TensorDifference]) -> Iterator[str]:
    """Yield sentences about tensors that differ in shape or in a quantised format."""
    differing = [tensor for tensor in tensors if tensor.change == "unmeasured"]
    if reshaped := [tensor for tensor in differing if tensor.resized]:
        yield f"other shapes: {_listed(reshaped)}"
    if coded := [tensor for tensor in differing if not tensor.resized and _is_coded(tensor)]:
        yield f"different values in quantised formats: {_listed(coded)}"


def _is_coded(tensor: TensorDifference) -> bool:
    """Return whether a tensor is in a format without a norm; digests give no norm either."""
    return any(side and side.dtype not in DTYPES for side in (tensor.base, tensor.candidate))


def _nonfinite(tensors: Sequence[TensorDifference]) -> Iterator[str]:
    """Yield sentences about tensors with NaN or infinity."""
    for model in ("base", "candidate"):
        if damaged := [tensor for tensor in tensors if model in tensor.nonfinite]:
            yield f"NaN or infinity in the {model}: {_listed(damaged)}"


def _listed(tensors: Sequence[TensorDifference]) -> str:
    """Return the names of some tensors, or their number if there are many."""
    if len(tensors) > _NAMED:
        return counted(len(tensors), "tensor")
    return ", ".join(tensor.name for tensor in tensors)
