"""Prompts whose outputs changed most, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.pair_changes import Behaviour
from neuroscope.prompts import PromptSet
from neuroscope.stats.moments import Doubles
from neuroscope.studies.drift.explanation import MOST_SHOWN, mean_by_prompt
from neuroscope.tokens import TokenBlock

MOST_TOKENS = 150
"""Number of tokens of a long prompt that are kept, around the one that changed most."""
NOTICEABLE = 0.01
"""Change of the mean log probability, in nats per token, from which a prompt counts as better or
worse predicted."""
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
    base: float
    """Mean log probability of its tokens in the base, in nats; NaN without a language-model
    head."""
    candidate: float
    """The same in the candidate."""
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
    likelihoods = _likelihoods(behaviour, len(prompts))
    order = np.argsort(-np.nan_to_num(means, nan=-1.0), kind="stable")[:MOST_SHOWN]
    return [
        _changed(index, prompts, behaviour, topics, block, means[index], likelihoods[:, index])
        for index in order.tolist()
        if not np.isnan(means[index])
    ]


def regressed_improved(behaviour: Behaviour, count: int) -> tuple[int, int]:
    """Return how many prompts the candidate predicts noticeably worse, and better, than the base.

    Both are 0 without a language-model head.

    Args:
        behaviour: change of the outputs at each position.
        count: number of prompts.
    """
    base, candidate = _likelihoods(behaviour, count)
    gain = np.nan_to_num(candidate - base)
    return int((gain < -NOTICEABLE).sum()), int((gain > NOTICEABLE).sum())


def _likelihoods(behaviour: Behaviour, count: int) -> Doubles:
    """Return the mean log probability of each prompt's tokens, (base and candidate, prompts)."""
    predictions = behaviour.predictions
    if predictions is None:
        return np.full((2, count), np.nan)
    return np.stack(
        [
            mean_by_prompt(values, behaviour, count)
            for values in (predictions.base, predictions.candidate)
        ]
    )


def _changed(
    index: int,
    prompts: PromptSet,
    behaviour: Behaviour,
    topics: Sequence[str | None],
    block: TokenBlock,
    mean: float,
    likelihoods: Doubles,
) -> PromptDrift:
    """Return the change of one prompt; `likelihoods` are those of base and candidate."""
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
        divergence=float(mean),
        largest=float(values[at]),
        base=float(likelihoods[0]),
        candidate=float(likelihoods[1]),
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
