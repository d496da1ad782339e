"""Comparison of two checkpoints by their files, before any forward pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.configuration_differences import (
    ConfigurationDifference,
    compare_configurations,
)
from neuroscope.extraction.difference_sentences import sentences
from neuroscope.extraction.tensor_digests import TensorDigest, compare_digests
from neuroscope.extraction.tensor_matching import TensorDifference
from neuroscope.extraction.tokenizer_differences import TokenizerDifferences, compare_tokenizers
from neuroscope.extraction.weight_differences import (
    PartDifferences,
    compare_weights,
    part_differences,
)
from neuroscope.progress import Progress, silent


@dataclass(frozen=True)
class CheckpointDifferences:
    """Differences between the files of two models, the base and the candidate.

    >>> differences = compare_checkpoints(find_checkpoint("v1"), find_checkpoint("v2"))
    >>> differences.kind
    ('layers 0-3 untouched; layers 4-5 changed',)
    """

    configuration: tuple[ConfigurationDifference, ...]
    """Entries of config.json that differ and can change values."""
    tokenizer: TokenizerDifferences
    """Differences that can change tokens."""
    tensors: tuple[TensorDifference, ...]
    """One row per tensor, ordered by part: embeddings, layers, final norm, head."""

    @property
    def same_tokens(self) -> bool:
        """Whether every prompt has the same tokens."""
        return self.tokenizer.equal

    @property
    def identical(self) -> bool:
        """Whether both models compute the same values: configuration, tokens, all weights."""
        unchanged = all(each.change == "equal" and not each.resized for each in self.tensors)
        return unchanged and self.same_tokens and not self.configuration

    def damaged(self, model: Literal["base", "candidate"]) -> list[str]:
        """Return the names of the changed tensors that contain NaN or infinity in one model."""
        return [tensor.name for tensor in self.tensors if model in tensor.nonfinite]

    @cached_property
    def parts(self) -> tuple[PartDifferences, ...]:
        """One row per part: embeddings, each layer, the final norm and the head."""
        return part_differences(self.tensors)

    @cached_property
    def kind(self) -> tuple[str, ...]:
        """Differences in words, one sentence without a full stop each."""
        return sentences(self.configuration, self.tokenizer, self.tensors, self.parts)


def compare_checkpoints(
    base: Checkpoint, candidate: Checkpoint, progress: Progress = silent
) -> CheckpointDifferences:
    """Compare configuration, tokenizer and every tensor of two checkpoints.

    Equal tensors are recognised by their bytes. Memory holds at most 256 MB of the files.

    Args:
        base: files of the old model.
        candidate: files of the new model.
        progress: callback for the pieces of files compared, then for the tensors measured.

    Raises:
        ModelError: files are missing, damaged, cannot be read or contradict each other.
    """
    return CheckpointDifferences(
        configuration=compare_configurations(base, candidate),
        tokenizer=compare_tokenizers(base, candidate),
        tensors=compare_weights(base, candidate, progress),
    )


def compare_with_digests(
    base: Checkpoint, digests: Mapping[str, TensorDigest], candidate: Checkpoint
) -> CheckpointDifferences:
    """Compare a checkpoint with a base of which only the digests of the tensors are known.

    Args:
        base: configuration and tokenizer of the old model.
        digests: result of `tensor_digests` for the old model.
        candidate: files of the new model.

    Raises:
        ModelError: files are missing, damaged, cannot be read or contradict each other.
    """
    return CheckpointDifferences(
        configuration=compare_configurations(base, candidate),
        tokenizer=compare_tokenizers(base, candidate),
        tensors=compare_digests(base, digests, candidate),
    )
