"""Rotary position embeddings of each prompt, regardless of other prompts and of earlier passes.

Some types of rotary embeddings depend on the length of the sequence: `longrope` has one set of
frequencies for short and one for long sequences, and `dynamic` computes its frequencies from the
length of a sequence above the original limit. transformers takes the longest prompt of the batch as
that length and, for `dynamic`, of earlier batches too.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_SCALED = {
    "linear": "max_position_embeddings",
    "dynamic": "max_position_embeddings",
    "yarn": "original_max_position_embeddings",
}
"""Types whose `factor` extends a limit, and the key of that limit in config.json. The other types
extend `max_position_embeddings` itself."""


def rotary_limit(config: Mapping[str, Any]) -> int:
    """Return the number of positions that a model's rotary embeddings are meant for.

    transformers computes embeddings for any number of positions, so the limit is that of the
    configuration: `max_position_embeddings`, extended by the scaling that config.json sets.
    """
    limit = config["max_position_embeddings"]
    # transformers gives the older key precedence
    scaling: Mapping[str, Any] = config.get("rope_scaling") or config.get("rope_parameters") or {}
    key = _SCALED.get(scaling.get("rope_type", scaling.get("type", "default")))
    if key is None or not isinstance(scaling.get("factor"), int | float):
        return int(limit)
    scaled = config.get(key) or scaling.get(key) or limit
    return max(int(limit), int(scaled * scaling["factor"]))


@contextmanager
def separate_prompts(body: "torch.nn.Module") -> Iterator[None]:
    """Give each prompt of a batch the rotary embeddings of a pass over that prompt alone.

    Args:
        body: module of transformers, without the language-model head.
    """
    rotary: Any = getattr(body, "rotary_emb", None)
    if rotary is None or rotary.rope_type == "default":
        yield
        return
    hook = rotary.register_forward_hook(_embed_by_length, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        _forget_lengths(rotary)


def _embed_by_length(
    rotary: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    embeddings: "tuple[torch.Tensor, torch.Tensor]",
) -> None:
    """Replace the embeddings of a batch (forward hook); prompts of one length are run together."""
    states, position_ids = (*args, *kwargs.values())
    # in main memory, which can index tensors of all devices; padding repeats the last position or
    # has position 0
    last = position_ids.amax(dim=1).cpu()
    for length in last.unique():
        rows = last == length
        _forget_lengths(rotary)
        separate = rotary.forward(states, position_ids[rows])
        for values, replacement in zip(embeddings, separate, strict=True):
            values[rows] = replacement


def _forget_lengths(rotary: Any) -> None:
    """Restore the frequencies that `dynamic` embeddings replace after a long sequence."""
    if rotary.max_seq_len_cached > rotary.original_max_seq_len:
        rotary.inv_freq = rotary.original_inv_freq
        rotary.max_seq_len_cached = rotary.original_max_seq_len
