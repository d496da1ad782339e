"""Words of a study of associations as a model reads them, and the control words that match them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ExperimentError
from neuroscope.experiment_faults import about
from neuroscope.stats.contrasts import LEAST_TEMPLATES
from neuroscope.stats.similarity import jaccard
from neuroscope.studies.association.experiment import AssociationExperiment
from neuroscope.tokens import TokenBlock, Tokens

_LEAST_MATCHES = 2  # control roles; one word is no sample of words
_NEAREST = 16  # best matches from which a word is drawn
DRAWS = 9999
"""Number of draws of random groups."""
_OTHER_LENGTH = 1000.0  # cost of a token more or less, against that of a ratio of ranks


@dataclass(frozen=True)
class Gap:
    """Position of a template's gap: its first token, and the number of tokens after it."""

    start: int
    after: int

    def span(self, tokens: Tokens) -> slice:
        """Return the positions of the word in one prompt of the template."""
        return slice(self.start, len(tokens) - self.after)


@dataclass(frozen=True)
class WordTokens:
    """Tokens of a word in the first template."""

    word: str
    ids: tuple[int, ...]
    texts: tuple[str, ...]

    @property
    def rank(self) -> int:
        """Largest id of its tokens: most vocabularies begin with the most frequent tokens."""
        return max(self.ids)


@dataclass(frozen=True)
class WordPair:
    """Numbers of tokens of two words, and what they share."""

    a: str
    b: str
    tokens_a: int
    tokens_b: int
    jaccard: float
    """Jaccard index of the sets of tokens, from 0 to 1."""


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Words of an experiment in one model, with the control words that stand beside them."""

    gaps: Sequence[Gap]
    """Gap of each template."""
    words: Mapping[str, WordTokens]
    controls: Mapping[str, tuple[str, ...]]
    """Role -> its control roles, the best match first."""
    notes: tuple[str, ...] = ()

    def pairs(self, experiment: AssociationExperiment) -> list[WordPair]:
        """Return the pairs of a role and a word of a group, and those of words of two groups."""
        pairs = [(role, word) for role in experiment.roles for word in experiment.group_words]
        groups = list(experiment.groups.values())
        for number, group in enumerate(groups):
            others = [word for other in groups[number + 1 :] for word in other]
            pairs += [(word, other) for word in group for other in others]
        distinct = dict.fromkeys(pair for pair in pairs if pair[0] != pair[1])
        return [self._pair(self.words[a], self.words[b]) for a, b in distinct]

    def _pair(self, a: WordTokens, b: WordTokens) -> WordPair:
        share = jaccard(set(a.ids), set(b.ids))
        return WordPair(a.word, b.word, len(a.ids), len(b.ids), share)


def read_lexicon(experiment: AssociationExperiment, tokens: TokenBlock, model: str) -> Lexicon:
    """Return the words of an experiment as a model reads them.

    Args:
        experiment: experiment of kind `association`.
        tokens: tokens of its `prompt_set`.
        model: name of the model, for messages.

    Raises:
        ExperimentError: the tokenizer does not know a word, drops it, or reads two words alike.
    """
    count = len(experiment.words)
    gaps, read = [], []
    for number, template in enumerate(experiment.templates):
        prompts = tokens[number * count : (number + 1) * count]
        gaps.append(_gap(prompts))
        words: dict[str, WordTokens] = {}
        for word, prompt in zip(experiment.words, prompts, strict=True):
            with about(*experiment.keys_of(word)):
                words[word] = _word(word, prompt, gaps[-1], template, model)
                _refuse_alike(words, word, model)
        read.append(words)
    controls, notes = _matched_controls(experiment, read[0])
    notes = [*_notes(experiment), *notes, *_pool_notes(experiment, read[0])]
    notes += _unknown_notes(experiment, tokens)
    return Lexicon(gaps, read[0], controls, tuple(notes))


def _gap(prompts: Sequence[Tokens]) -> Gap:
    """Return the gap of a template: what lies between the tokens that all its prompts share."""
    shortest = min(map(len, prompts))
    start = _shared([prompt.ids[:shortest] for prompt in prompts])
    after = _shared([prompt.ids[::-1][: shortest - start] for prompt in prompts])
    return Gap(start, after)


def _shared(sequences: Sequence[Sequence[int]]) -> int:
    """Return with how many equal tokens all sequences, of one length, begin."""
    ids = np.array(sequences)
    differ = (ids != ids[0]).any(axis=0)
    return int(differ.argmax()) if differ.any() else ids.shape[1]


def _word(word: str, prompt: Tokens, gap: Gap, template: str, model: str) -> WordTokens:
    """Return the tokens of a word in a template.

    Raises:
        ExperimentError: the tokenizer does not know it there, or reads nothing, as it cut the
            prompt.
    """
    span = gap.span(prompt)
    if any(prompt.unknown[span]):
        raise ExperimentError(
            f"the tokenizer of '{model}' does not know the word '{word}' in '{template}'",
            remedy="replace it",
        )
    if not prompt.words[span].any():
        raise ExperimentError(
            f"the tokenizer of '{model}' reads no word where '{word}' stands in '{template}'",
            remedy="replace it, or shorten the template",
        )
    return WordTokens(word, prompt.ids[span], prompt.texts[span])


def _refuse_alike(words: Mapping[str, WordTokens], word: str, model: str) -> None:
    """Raise ExperimentError if a word is the same tokens as another one."""
    for other, tokens in words.items():
        if other != word and tokens.ids == words[word].ids:
            raise ExperimentError(
                f"'{other}' and '{word}' are the same tokens to '{model}'", remedy="remove one"
            )


def _matched_controls(
    experiment: AssociationExperiment, words: Mapping[str, WordTokens]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the control roles of each role, and sentences on roles that have no good match."""
    controls, unmatched = {}, []
    for role in dict.fromkeys(role for role, _, _ in experiment.contrasts):
        costs = {word: _distance(words[role], words[word]) for word in experiment.control_roles}
        nearest = sorted(costs, key=costs.__getitem__)
        matched = [word for word in nearest if costs[word] < _OTHER_LENGTH]
        if len(matched) < _LEAST_MATCHES:
            unmatched.append(role)
            matched = nearest
        controls[role] = tuple(matched[: experiment.controls])
    if not unmatched:
        return controls, []
    roles = ", ".join(map(repr, unmatched))
    return controls, [
        f"fewer than {_LEAST_MATCHES} control roles have as many tokens as {roles}; the nearest"
        " ones are used, and a difference in length may remain"
    ]


def _distance(a: WordTokens, b: WordTokens) -> float:
    """Return how far two words are apart: in tokens first, then in the logarithm of the rank."""
    ratio = abs(math.log((1 + a.rank) / (1 + b.rank)))
    return _OTHER_LENGTH * abs(len(a.ids) - len(b.ids)) + ratio


def draw_groups(
    lexicon: Lexicon,
    groups: Sequence[Sequence[str]],
    control_words: Sequence[str],
    *,
    seed: int,
    draws: int = DRAWS,
) -> NDArray[np.int64]:
    """Return random groups, drawn from the words of two groups and control words together.

    In each draw, the words of the groups take turns in random order; each is replaced by one of
    the `_NEAREST` words that are left and match it best by number of tokens and then by rank,
    itself included. If it did not matter which words the groups have, the groups themselves would
    be one such draw.

    Args:
        lexicon: words of an experiment.
        groups: words of the two groups.
        control_words: control words of the experiment.
        seed: seed of the draws.
        draws: number of draws.

    Returns:
        (draws, words of both groups) numbers of words in the pool: the words of the first group,
        those of the second, and the control words. The first ones take the place of the first
        group.
    """
    own = [word for words in groups for word in words]
    pool = [*own, *control_words]
    candidates = []
    for number, word in enumerate(own):
        costs = [_distance(lexicon.words[word], lexicon.words[other]) for other in pool]
        costs[number] = -1  # itself first, also if another word has the same rank
        candidates.append(tuple(np.argsort(costs, kind="stable").tolist()))
    return _draw(tuple(candidates), draws, seed)


@lru_cache(maxsize=32)  # every layer and view has the same draws
def _draw(candidates: tuple[tuple[int, ...], ...], draws: int, seed: int) -> NDArray[np.int64]:
    """Return the draws of `draw_groups`, given the numbers of the best matches of each word."""
    rng = np.random.default_rng(seed)
    drawn = np.empty((draws, len(candidates)), dtype=np.int64)
    for draw in range(draws):
        used: set[int] = set()
        chances = rng.random(len(candidates)).tolist()
        for word in rng.permutation(len(candidates)).tolist():
            left = [other for other in candidates[word] if other not in used][:_NEAREST]
            drawn[draw, word] = chosen = left[int(chances[word] * len(left))]
            used.add(chosen)
    return drawn


def _pool_notes(experiment: AssociationExperiment, words: Mapping[str, WordTokens]) -> list[str]:
    """Return a sentence if words of the groups lack control words with as many tokens."""
    if not experiment.control_words:
        return []
    needed, given = (
        Counter(len(words[word].ids) for word in listed)
        for listed in (experiment.group_words, experiment.control_words)
    )
    missing = sorted(size for size in needed if needed[size] > given[size])
    if not missing:
        return []
    sizes = " and ".join(map(str, missing))
    return [
        f"there are fewer control words of {sizes} tokens than words of the groups; words of other"
        " lengths take their place"
    ]


def _notes(experiment: AssociationExperiment) -> list[str]:
    """Return sentences on what limits an experiment whatever the model."""
    notes = []
    for name, texts in (("templates", experiment.templates), ("statements", experiment.statements)):
        if 0 < len(texts) < LEAST_TEMPLATES:
            notes.append(
                f"{len(texts)} {name} give no p-value: the smallest of a sign-flip test would be"
                f" {2 / 2 ** len(texts):g}; give {LEAST_TEMPLATES} or more"
            )
    single = [name for name, words in experiment.groups.items() if len(words) == 1]
    if single:
        names = ", ".join(map(repr, single))
        group = "group has one word" if len(single) == 1 else "groups have one word each"
        notes.append(
            f"{names}: the {group}, so what holds for the group cannot be told from what holds for"
            " that word"
        )
    return notes


def _unknown_notes(experiment: AssociationExperiment, tokens: TokenBlock) -> list[str]:
    """Return a sentence on templates with words that the tokenizer does not know."""
    count = len(experiment.words)
    unknown = [
        f"'{template}'"
        for number, template in enumerate(experiment.templates)
        if any(tokens[number * count].unknown)
    ]
    if not unknown:
        return []
    return [f"the tokenizer does not know some words of {', '.join(unknown)}"]
