"""Neutral context in front of a template: what it does to similarities of words in the gap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tables import table
from benchmarks.validation.outcome import Outcome, figure, outcome_of
from benchmarks.validation.synthetic import generate, texts_of, words_of
from neuroscope.activations import Floats
from neuroscope.extraction.baseline import ensure_baseline, read_baseline
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import Model, load_model
from neuroscope.stats.contrasts import contributions, unit_vectors
from neuroscope.stats.moments import Doubles, Moments

REPETITIONS = (0, 1, 2, 4, 8)
MOST_BEFORE = 1e-5
"""Largest difference before the gap that is due to rounding."""
HEADER = (
    *("model", "repetitions", "tokens", "prompts, pooled", "words, standardised"),
    *("size of R", "size of D", "difference before the gap"),
)
_SITES = "resid_post"
_REPORTED = {"raw": "the size of R", "controlled": "the size of D"}
"""What the study reports. It reports no level of similarity: that of single words rises, too."""


@dataclass(frozen=True)
class Material:
    """Templates with words for their gap, and a sentence that has nothing to do with them."""

    templates: Sequence[str]
    """Texts with one `{}`."""
    roles: Sequence[str]
    words: Sequence[str]
    """Words of two groups, one after the other, that are compared with each role."""
    context: str

    def prompts(self, template: str, repetitions: int) -> list[str]:
        """Return a template with each word in its gap, after the context, the roles first."""
        before = f"{self.context} " * repetitions
        return [before + template.format(word) for word in (*self.roles, *self.words)]


ENGLISH = Material(
    (
        "The {} is sitting in the kitchen.",
        "Everyone in the room looked at the {}.",
        "My sister talked to the {} for an hour.",
        "The {} read a long book about history.",
        "On the way home we met a {} with a dog.",
        "They asked the {} to open the window.",
        "A {} was waiting for the last train.",
        "In the photograph, the {} is on the left.",
    ),
    ("nurse", "engineer", "teacher", "lawyer"),
    ("man", "boy", "woman", "girl"),
    "It was an ordinary day.",
)


def synthetic() -> Material:
    """Return material in the words that the small causal model knows."""
    texts = [text.split() for text in texts_of(generate(8, seed=5))]
    context = " ".join(texts_of(generate(1, seed=6))[0].split()[:5])
    return Material(
        tuple(" ".join([*words[:5], "{}", *words[6:10]]) for words in texts),
        words_of("medicine")[:4],
        [*words_of("sports")[:2], *words_of("weather")[:2]],
        context,
    )


@dataclass(frozen=True)
class Similarities:
    """Similarities of the words in one template, means over layers."""

    tokens: float
    """Mean number of tokens of a prompt."""
    pooled: float
    """Mean raw cosine of pairs of prompts, whose tokens are averaged."""
    span: float
    """Mean standardised cosine of pairs of words in the gap."""
    raw: float
    """Mean size of the raw contrast of a role with both halves of the words."""
    controlled: float
    """Mean size of the controlled contrast, whose control roles are all other roles."""
    before: float
    """Largest difference between words of an activation before the gap, relative to the largest
    activation there."""


@dataclass(frozen=True)
class Repeated:
    """Similarities in every template, after some repetitions of the context."""

    model: str
    causal: bool
    repetitions: int
    templates: Sequence[Similarities]

    def values(self, name: str) -> Doubles:
        """Return one field, (templates,)."""
        return np.array([getattr(template, name) for template in self.templates])


@dataclass(frozen=True)
class Subject:
    """A model with material for it."""

    label: str
    """Name in the table."""
    model: Model
    material: Material
    baseline: Sequence[Moments]
    """Moments of the residual stream, per layer."""
    causal: bool


def encoder_subject(label: str, name: str) -> Subject:
    """Return an encoder with English material, and its usual baseline."""
    model = load_model(name, device="cpu")
    path = ensure_baseline(model, _SITES)
    baseline = [read_baseline(path, "content", layer) for layer in range(model.layer_count)]
    return Subject(label, model, ENGLISH, baseline, causal=False)


def causal_subject(label: str, folder: str, material: Material, texts: Sequence[str]) -> Subject:
    """Return a causal model whose baseline is computed from texts in its vocabulary."""
    model = load_model(folder, device="cpu")
    acts = extract(model, texts, _SITES, pool="none", truncate=True)
    baseline = [Moments.of(np.concatenate(acts[site])) for site in acts.sites]
    return Subject(label, model, material, baseline, causal=True)


def repeat(subject: Subject, repetitions: Sequence[int] = REPETITIONS) -> list[Repeated]:
    """Return the similarities for each number of repetitions."""
    return [
        Repeated(
            subject.label,
            subject.causal,
            count,
            [_measured(subject, template, count) for template in subject.material.templates],
        )
        for count in repetitions
    ]


def _measured(subject: Subject, template: str, repetitions: int) -> Similarities:
    """Return the similarities in one template."""
    prompts = subject.material.prompts(template, repetitions)
    acts = extract(subject.model, prompts, _SITES, pool="none", token_rule="all")
    pooled = extract(subject.model, prompts, _SITES)
    gaps = gaps_of([tokens.ids for tokens in acts.tokens])
    roles = len(subject.material.roles)
    layers = []
    for site, moments in zip(acts.sites, subject.baseline, strict=True):
        words = [values[gap].mean(axis=0) for values, gap in zip(acts[site], gaps, strict=True)]
        units = unit_vectors(moments.standardise(np.array(words)))
        pair = _between(unit_vectors(pooled[site]), roles), _between(units, roles)
        layers.append([*pair, *_contrasts(units, roles)])
    tokens = float(np.mean([len(tokens) for tokens in acts.tokens]))
    before = max(_spread([values[: gaps[0].start] for values in acts[site]]) for site in acts)
    pooled_mean, span, raw, controlled = np.mean(layers, axis=0).tolist()
    return Similarities(tokens, pooled_mean, span, raw, controlled, before)


def gaps_of(ids: Sequence[Sequence[int]]) -> list[slice]:
    """Return where prompts differ: what is left without their common first and last tokens."""
    first, last = _common(ids), _common([row[::-1] for row in ids])
    return [slice(first, len(row) - last) for row in ids]


def _common(ids: Sequence[Sequence[int]]) -> int:
    """Return the number of first tokens that all prompts have in common."""
    same = [len(set(tokens)) == 1 for tokens in zip(*ids, strict=False)]
    return [*same, False].index(False)


def _between(units: Doubles, roles: int) -> float:
    """Return the mean cosine of the first vectors, the roles, with the others."""
    return float((units[:roles] @ units[roles:].T).mean())


def _contrasts(units: Doubles, roles: int) -> tuple[float, float]:
    """Return the mean sizes over roles of the raw and of the controlled contrast."""
    groups = np.split(units[roles:], 2)
    sums = [
        [
            terms.sum()
            for terms in contributions(units[role], np.delete(units[:roles], role, 0), *groups)
        ]
        for role in range(roles)
    ]
    raw, controlled = np.abs(sums).mean(axis=0)
    return float(raw), float(controlled)


def _spread(values: Sequence[Floats]) -> float:
    """Return the largest difference from the first array, relative to its largest value."""
    largest = np.abs(values[0]).max()
    return float(max(np.abs(array - values[0]).max() for array in values) / largest)


def measure(subjects: Sequence[Subject]) -> Outcome:
    """Return the similarities in all models, for each number of repetitions."""
    return outcome([repeat(subject) for subject in subjects])


def outcome(models: Sequence[Sequence[Repeated]]) -> Outcome:
    """Return the table of all models, and the properties that do not hold."""
    properties: dict[str, bool] = {}
    for rows in models:
        label, pooled = rows[0].model, [row.values("pooled").mean() for row in rows]
        if rows[0].causal:
            sentence = f"{label}: activations before the gap are equal, to rounding"
            properties[sentence] = max(row.values("before").max() for row in rows) <= MOST_BEFORE
        sentence = f"{label}: the cosine of pooled prompts rises with every row"
        properties[sentence] = bool((np.diff(pooled) > 0).all())
        for name, what in _REPORTED.items():
            sentence = f"{label}: {what} does not rise after {rows[-1].repetitions} repetitions"
            properties[sentence] = not rises(rows[0].values(name), rows[-1].values(name))
    cells = [_cells(row) for rows in models for row in rows]
    text = "Means over layers, templates and pairs of words."
    return outcome_of(table(HEADER, cells), properties, text)


def rises(without: Doubles, after: Doubles) -> bool:
    """Return whether a mean over templates rises by more than two standard errors."""
    difference = after - without
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() > 2 * error)


def _cells(row: Repeated) -> list[str]:
    """Return the row of the table."""
    names = ("pooled", "span", "raw", "controlled")
    means = [f"{row.values(name).mean():.3f}" for name in names]
    tokens = f"{row.values('tokens').mean():.1f}"
    return [row.model, str(row.repetitions), tokens, *means, figure(row.values("before").max())]
