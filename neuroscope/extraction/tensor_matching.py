"""Tensors of two checkpoints, matched by name and ordered by the part of the model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from neuroscope.extraction.architectures import Architecture
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.configuration_differences import effective_config
from neuroscope.extraction.tensor_pairs import FOLD
from neuroscope.extraction.weights import StoredTensor, WeightFiles

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
TIED = {
    **dict.fromkeys((*_OUTPUT, "cls.predictions.decoder.weight"), _INPUT),
    "cls.predictions.decoder.bias": ("cls.predictions.bias",),
    "lm_head.decoder.bias": ("lm_head.bias",),
}
"""Weights of the head -> where the same values are if the files leave them out."""

_LOW = 0.25  # of the full rank: fine-tuning of all weights needs .35 or more


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
        return ratio(self.change_norm, self.base_norm)

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


def ratio(change: float | None, base: float | None) -> float | None:
    """Return a norm relative to another; None if it is not known or infinite."""
    if change == 0:
        return 0.0
    return change / base if change and base else None


def matched(base: Checkpoint, candidate: Checkpoint) -> list[TensorDifference]:
    """Return the tensors of two checkpoints, ordered by part, as not yet compared."""
    old, new = tensors_of(base), tensors_of(candidate)
    add_tied(old, new, base)
    add_tied(new, old, candidate)
    return paired(old, new, base, candidate)


def paired(
    old: Mapping[str, StoredTensor],
    new: Mapping[str, StoredTensor],
    base: Checkpoint,
    candidate: Checkpoint,
) -> list[TensorDifference]:
    """Return the tensors of two checkpoints by name, ordered by part, as not yet compared."""
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


def tensors_of(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint by their names, without what config.json determines."""
    files = WeightFiles(checkpoint)
    tensors = {**files.outside, **files.stored}
    return {name: tensor for name, tensor in tensors.items() if not _COMPUTED.search(name)}


def add_tied(
    tensors: dict[str, StoredTensor], other: Mapping[str, object], checkpoint: Checkpoint
) -> None:
    """Add weights of the head that only the other checkpoint stores, if the files imply them."""
    implied = {
        name: tensors[source]
        for name, sources in TIED.items()
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
