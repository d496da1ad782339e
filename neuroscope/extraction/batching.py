"""Turns prompts into token ids, and token ids into padded batches of like length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuroscope.align import Tokens
from neuroscope.errors import PromptError
from neuroscope.extraction.models import Model
from neuroscope.prompts import PromptSet

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts that go through the model together.

    `members` are their positions in the prompt set, one a row of `ids` and `mask`, both
    (batch, tokens); `kept` is true at the tokens that the token rule counts.
    """

    members: tuple[int, ...]
    ids: "torch.Tensor"
    mask: "torch.Tensor"
    kept: "torch.Tensor"

    def inputs(self, model: Model) -> "dict[str, torch.Tensor | bool]":
        """What the model's forward takes; positions count from each prompt's first token."""
        architecture = model.architecture
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0) + architecture.first_position
        inputs: dict[str, torch.Tensor | bool] = {
            "input_ids": self.ids,
            "attention_mask": self.mask,
            "position_ids": positions,
        }
        if architecture.causal:
            inputs["use_cache"] = False
        return inputs


def tokenise(model: Model, prompts: PromptSet, *, truncate: bool = False) -> tuple[Tokens, ...]:
    """Each prompt as its model reads it, special tokens included.

    Args:
        truncate: cut prompts at the model's limit instead of refusing them.

    Raises:
        PromptError: a prompt is longer than the model can read, or becomes no token at all.
    """
    limit = model.checkpoint.token_limit
    options = {"truncation": True, "max_length": limit} if truncate else {"truncation": False}
    encoded = model.tokenizer(prompts.texts, padding=False, verbose=False, **options)["input_ids"]
    special, unknown = model.special_ids, model.tokenizer.unk_token_id
    found = []
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) > limit:
            raise PromptError(
                f"prompt '{prompt.id}' is {len(ids)} tokens long and '{model.name}' reads at most"
                f" {limit}: shorten it, or ask for truncation (--truncate)"
            )
        texts = tuple(model.tokenizer.convert_ids_to_tokens(ids))
        tokens = Tokens(
            tuple(ids),
            texts,
            tuple(id in special for id in ids),
            tuple(id == unknown and id not in special for id in ids),
        )
        if not tokens.content.any():
            raise PromptError(
                f"prompt '{prompt.id}' ({prompt.text!r}) holds nothing that the tokenizer of"
                f" '{model.name}' knows: it becomes no token"
            )
        found.append(tokens)
    return tuple(found)


def batches(
    model: Model, tokens: Sequence[Tokens], *, rule: str, budget: int = 4096
) -> Iterator[Batch]:
    """Batches of at most `budget` tokens, padding included, longest prompts first.

    Args:
        rule: which tokens count, `content` or `all`.
        budget: in tokens; a longer prompt goes alone.
    """
    order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
    start = 0
    while start < len(order):
        size = max(1, budget // len(tokens[order[start]]))
        members = tuple(order[start : start + size])
        yield _batch(model, members, [tokens[index] for index in members], rule)
        start += size


def _batch(model: Model, members: tuple[int, ...], tokens: Sequence[Tokens], rule: str) -> Batch:
    import torch

    width = max(map(len, tokens))
    shape = (len(tokens), width)
    padding = model.tokenizer.pad_token_id or 0  # never seen: the mask hides it
    ids = torch.full(shape, padding)
    mask = torch.zeros(shape, dtype=torch.long)
    kept = torch.zeros(shape, dtype=torch.bool)
    for row, one in enumerate(tokens):
        at = slice(width - len(one), width) if model.padding_side == "left" else slice(len(one))
        ids[row, at] = torch.tensor(one.ids)
        mask[row, at] = 1
        kept[row, at] = torch.from_numpy(one.content) if rule == "content" else True
    device = model.device
    return Batch(members, ids.to(device), mask.to(device), kept.to(device))
