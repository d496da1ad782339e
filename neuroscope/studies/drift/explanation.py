"""Explanation of drift: on which topics, in which layers, and which tokens are expected."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuroscope.activations import Floats
from neuroscope.extraction.pair_changes import Behaviour
from neuroscope.stats.moments import Doubles, Moments
from neuroscope.studies.drift.agreement import Values
from neuroscope.tokens import Vocabulary

MOST_SHOWN = 20
"""Number of neurons, prompts and tokens that are listed."""
MOST_TOPICS = 20
"""Number of topics for which tokens and positions are listed: the first in the table of topics."""
UP_BY_TOPIC, DOWN_BY_TOPIC = 10, 5
"""Number of tokens that are listed per topic."""
_RARE = 1e-4
"""Mean probability below which the change of a token hardly counts."""


@dataclass(frozen=True)
class TopicDrift:
    """Change on the prompts of one topic."""

    topic: str
    prompts: int
    divergence: float
    """Mean over its prompts of the divergence of the outputs."""
    divergence_error: float
    """Standard error of that mean; NaN for one prompt."""
    gain: float
    """Mean over its prompts of the change of the log probability of the actual tokens, in nats per
    token; NaN without a language-model head. A candidate gains most on texts like those on which
    it was trained further."""
    gain_error: float
    """Standard error of that mean."""


@dataclass(frozen=True)
class TokenDrift:
    """Token that the candidate expects more, or less, often than the base does."""

    token: str
    """Token as the tokenizer writes it."""
    text: str
    """Token as it is read, as `Vocabulary.display` writes it."""
    is_word: bool
    """Whether it is, or begins, a word of at least 3 letters."""
    base: float
    """Mean probability in the base over all positions."""
    candidate: float
    """Mean probability in the candidate."""
    ratio: float
    """Log of the ratio of both, smoothed as in `preferred_tokens`."""
    null: float
    """Largest such value of this token in a benign replicate; NaN without replicates."""


@dataclass(frozen=True)
class TopicTokens:
    """Tokens that the candidate expects more, or less, often than the base on one topic."""

    topic: str
    up: tuple[TokenDrift, ...]
    down: tuple[TokenDrift, ...]


def mean_by_prompt(values: Doubles, behaviour: Behaviour, count: int) -> Doubles:
    """Return the mean of values at positions per prompt, (prompts,); NaN without positions."""
    sums = np.bincount(behaviour.prompts, weights=values, minlength=count)
    positions = np.bincount(behaviour.prompts, minlength=count)
    means: Doubles = np.divide(sums, positions, out=np.full(count, np.nan), where=positions > 0)
    return means


def topic_drift(behaviour: Behaviour, topics: Sequence[str | None]) -> list[TopicDrift]:
    """Return the change on each topic: the one with the largest gain first.

    Without a language-model head, the topic with the largest divergence comes first.

    Args:
        behaviour: change of the outputs at each position.
        topics: topic of each prompt, or None.
    """
    divergence = mean_by_prompt(behaviour.divergence, behaviour, len(topics))
    gain = np.full(len(topics), np.nan)
    if changes := behaviour.predictions:
        gain = mean_by_prompt(changes.candidate - changes.base, behaviour, len(topics))
    rows = []
    for topic in sorted({topic for topic in topics if topic}):
        inside = np.array([other == topic for other in topics])
        means = *_mean(divergence[inside]), *_mean(gain[inside])
        rows.append(TopicDrift(topic, int(inside.sum()), *means))
    leading = "divergence" if behaviour.predictions is None else "gain"
    return sorted(rows, key=lambda row: -float(np.nan_to_num(getattr(row, leading), nan=-np.inf)))


def layers_by_topic(
    base: Values, candidate: Values, topics: Sequence[str | None], names: Sequence[str]
) -> Doubles:
    """Return the change of the neurons on each topic at each site, (names, sites).

    It is the root mean squared difference over neurons and prompts, in standard deviations of the
    base over all prompts.

    Args:
        base: activations of the base.
        candidate: activations of the candidate at the same sites.
        topics: topic of each prompt, or None.
        names: topics of the rows.
    """
    changes = np.empty((len(names), len(base)))
    for column, site in enumerate(base):
        squares = _squared_change(base[site], candidate[site])
        for row, name in enumerate(names):
            inside = [topic == name for topic in topics]
            changes[row, column] = np.sqrt(squares[inside].mean())
    return changes


def _squared_change(base: Floats, candidate: Floats) -> Doubles:
    """Return the mean over neurons of the squared difference, in variances of the base."""
    sd = Moments.of(base).sd
    varies = sd > 0
    change = (candidate[:, varies].astype(np.float64) - base[:, varies]) / sd[varies]
    squares: Doubles = np.square(change).mean(axis=1)
    return squares


def group_means(expected: Doubles) -> Doubles:
    """Return the mean probability of each token by group, and over all groups in the last row.

    Args:
        expected: (groups, vocabulary) expected counts; those of all tokens of a group add up to the
            number of its positions.

    Returns:
        (groups + 1, vocabulary); 0 for a group without positions.
    """
    counts = np.concatenate([expected, expected.sum(axis=0, keepdims=True)])
    positions = counts.sum(axis=1, keepdims=True)
    means: Doubles = np.divide(counts, positions, out=np.zeros_like(counts), where=positions > 0)
    return means


def token_ratios(base: Doubles, candidate: Doubles) -> Doubles:
    """Return how much more often the candidate expects each token, of the shape of `base`.

    It is log((q + a) / (p + a)), with p and q the mean probabilities of the token over all
    positions, and a = 1e-4, which keeps tokens that hardly occur from leading the list.

    Args:
        base: (..., vocabulary) mean probabilities in the base.
        candidate: mean probabilities in the candidate.
    """
    ratios: Doubles = np.log((candidate + _RARE) / (base + _RARE))
    return ratios


def preferred_tokens(
    base: Doubles,
    candidate: Doubles,
    vocabulary: Vocabulary,
    bounds: Doubles | None = None,
    most: tuple[int, int] = (MOST_SHOWN, MOST_SHOWN),
) -> tuple[list[TokenDrift], list[TokenDrift]]:
    """Return the tokens that the candidate expects much more, and much less, often.

    Args:
        base: (vocabulary,) mean probabilities in the base.
        candidate: mean probabilities in the candidate.
        vocabulary: tokens by id; models may have probabilities of further ids, which are unused.
        bounds: (vocabulary,) largest absolute `token_ratios` of benign replicates; tokens whose
            ratio is not beyond them are left out.
        most: largest number of tokens that are returned of each kind.
    """
    ids = min(len(base), len(vocabulary.texts))
    ratios = token_ratios(base[:ids], candidate[:ids])
    beyond = np.zeros(ids) if bounds is None else bounds[:ids]
    order = np.argsort(-np.abs(ratios), kind="stable")
    order = order[np.abs(ratios[order]) > beyond[order]]
    floor = beyond if bounds is not None else np.full(ids, np.nan)

    def tokens(sign: int, most: int) -> list[TokenDrift]:
        return [
            TokenDrift(
                vocabulary.texts[at],
                vocabulary.display(at),
                vocabulary.is_word(at),
                *map(float, (base[at], candidate[at], ratios[at], floor[at])),
            )
            for at in order[sign * ratios[order] > 0][:most].tolist()
        ]

    return tokens(1, most[0]), tokens(-1, most[1])


def tokens_by_topic(
    expected: tuple[Doubles, Doubles],
    names: Sequence[str],
    order: Sequence[str],
    vocabulary: Vocabulary,
    bounds: Doubles | None,
) -> list[TopicTokens]:
    """Return the tokens whose mean probability on the prompts of each topic changed most.

    Args:
        expected: (groups, vocabulary) expected counts of base and candidate. The first groups are
            the topics; there may be one more, for prompts without a topic.
        names: topic of each group.
        order: topics that are returned, in their order.
        vocabulary: tokens by id.
        bounds: (groups + 1, vocabulary) bounds of benign replicates, or None.
    """
    base, candidate = (group_means(counts) for counts in expected)
    tokens = []
    for topic in order:
        group = names.index(topic)
        limits = None if bounds is None else bounds[group]
        most = UP_BY_TOPIC, DOWN_BY_TOPIC
        up, down = preferred_tokens(base[group], candidate[group], vocabulary, limits, most)
        tokens.append(TopicTokens(topic, tuple(up), tuple(down)))
    return tokens


def _mean(values: Doubles) -> tuple[float, float]:
    """Return the mean of the values that are not NaN, and its standard error; NaN without any."""
    known = values[~np.isnan(values)]
    if not len(known):
        return np.nan, np.nan
    error = float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else np.nan
    return float(known.mean()), error
