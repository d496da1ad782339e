"""Prompts whose outputs changed most, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.pair_changes import Behaviour
from neuroscope.prompts import PromptSet
from neuroscope.studies.drift.explanation import MOST_SHOWN, mean_by_prompt
from neuroscope.tokens import TokenBlock

MOST_TOKENS = 150
"""Number of tokens of a long prompt that are kept, around the one that changed most."""
_MOST_LETTERS = 1000  # of the text of a prompt


@dataclass(frozen=True)
class PromptDrift:
    """Prompt on which the outputs have changed, with the change at each of its tokens."""

    id: str
    text: str
    """Text, of which at most the first 1,000 characters are kept."""
    topic: str
    divergence: float
    """Mean over its positions: KL divergence in nats, or 1 - cosine without a head."""
    largest: float
    """Largest divergence at a position."""
    token: str
    """Token at that position, as it is read."""
    length: int
    """Number of tokens."""
    first: int
    """Position of the first of `tokens`: 0 unless the prompt is long."""
    tokens: tuple[str, ...]
    """Tokens as the tokenizer writes them."""
    texts: tuple[str, ...]
    """Tokens as they are read, with a space before a word; empty for special tokens."""
    values: tuple[float, ...]
    """Divergence at each token: of the predictions of the token, or of its final representations.
    NaN at special tokens, and at the first token in a causal model, which is not predicted."""


def changed_prompts(
    prompts: PromptSet, behaviour: Behaviour, topics: Sequence[str | None], block: TokenBlock
) -> list[PromptDrift]:
    """Return the prompts whose outputs changed most, in descending order.

    Args:
        prompts: the prompts.
        behaviour: change of the outputs at each position.
        topics: topic of each prompt, or None.
        block: tokens of the prompts.
    """
    means = mean_by_prompt(behaviour.divergence, behaviour, len(prompts))
    order = np.argsort(-np.nan_to_num(means, nan=-1.0), kind="stable")[:MOST_SHOWN]
    return [
        _changed(index, prompts, behaviour, topics, block, float(means[index]))
        for index in order.tolist()
        if not np.isnan(means[index])
    ]


def _changed(
    index: int,
    prompts: PromptSet,
    behaviour: Behaviour,
    topics: Sequence[str | None],
    block: TokenBlock,
    mean: float,
) -> PromptDrift:
    """Return the change of one prompt."""
    ids = block.ids[block.starts[index] : block.ends[index]].tolist()
    own = behaviour.prompts == index
    values = np.full(len(ids), np.nan)
    values[behaviour.positions[own]] = behaviour.divergence[own]
    at = int(np.nanargmax(values))
    window = _window(at, len(ids))
    vocabulary, text = block.vocabulary, prompts.texts[index]
    return PromptDrift(
        id=prompts.ids[index],
        text=text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…",
        topic=topics[index] or "",
        divergence=mean,
        largest=float(values[at]),
        token=vocabulary.display(ids[at]),
        length=len(ids),
        first=window.start,
        tokens=tuple(vocabulary.texts[id] for id in ids[window]),
        texts=tuple(
            "" if id in vocabulary.special else vocabulary.spelled(id) for id in ids[window]
        ),
        values=tuple(rounded(values[window]).tolist()),
    )


def _window(at: int, tokens: int) -> slice:
    """Return the tokens that are kept, around one of them."""
    start = max(0, min(at - MOST_TOKENS // 2, tokens - MOST_TOKENS))
    return slice(start, start + MOST_TOKENS)


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values with four significant digits, so that files stay small."""
    with np.errstate(all="ignore"):
        scale = 10.0 ** (3 - np.floor(np.log10(np.abs(values))))
        return np.where(np.isfinite(scale), np.round(values * scale) / scale, values)
