"""Contrasts at one site of one model, template by template, from the activations of its words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neuroscope.activations import Activations, Floats
from neuroscope.sites import Site
from neuroscope.stats.contrasts import contributions, t_test_p, unit_vectors
from neuroscope.stats.moments import Doubles, Moments
from neuroscope.stats.weat import weat
from neuroscope.studies.association.experiment import AssociationExperiment
from neuroscope.studies.association.words import Gap, Lexicon, draw_substitutes
from neuroscope.tokens import Tokens

VIEWS = ("span", "context")
"""Views: the word itself; the other words of its template, which it changes through attention."""

Vectors = dict[str, Doubles]
"""Word -> its vector."""


DRAWS = 1999
"""Number of draws of control groups."""


@dataclass(frozen=True, eq=False)
class ViewContrasts:
    """Contrasts in one view; NaN where a template has no position in the view."""

    raw: Doubles
    """(templates, contrasts)."""
    controlled: Doubles
    """(templates, contrasts)."""
    drawn: Doubles
    """(draws, contrasts) controlled contrasts of random control groups, mean over templates; no
    draw without control words."""


@dataclass(frozen=True, eq=False)
class NeuronContrasts:
    """Contributions of neurons to the controlled contrasts of the words; (contrasts, neurons)."""

    mean: Doubles
    """Mean over templates; those of all neurons add up to the contrast."""
    p: Doubles
    """p-value of a t test over templates."""


@dataclass(frozen=True)
class EstablishedRow:
    """Published measure of the same words at one layer."""

    layer: int
    measure: str
    """`weat` reads a word's activations, `seat` those of the complete sentence; neither is
    standardised."""
    role: str
    group_a: str
    group_b: str
    d: float
    p: float
    items: int
    """Number of words or sentences of both groups."""


@dataclass(frozen=True, eq=False)
class SiteContrasts:
    """What is measured at one site; contrasts are in the order of the experiment's."""

    layer: int
    views: Mapping[str, ViewContrasts]
    neurons: NeuronContrasts
    established: Sequence[EstablishedRow]


def measure_site(
    experiment: AssociationExperiment,
    activations: Activations[list[Floats]],
    site: Site,
    lexicon: Lexicon,
    baseline: Moments,
    *,
    causal: bool,
) -> SiteContrasts:
    """Measure all contrasts at one site.

    Args:
        experiment: experiment of kind `association`.
        activations: activations of every token of its prompts, special tokens included.
        site: site that is recorded in `activations`.
        lexicon: words of the experiment in this model.
        baseline: moments of the site's neurons over the content tokens of varied text.
        causal: whether tokens before the gap cannot depend on the word; they are left out.
    """
    prompts = list(_by_template(experiment, activations, site))
    vectors = {
        view: [
            _units(words, gap, view, baseline, causal=causal)
            for words, gap in zip(prompts, lexicon.gaps, strict=True)
        ]
        for view in VIEWS
    }
    neurons = [
        [terms for _, terms in _terms(experiment, lexicon, units)] for units in vectors["span"]
    ]
    means, tests = [], []
    for contrast in range(len(experiment.contrasts)):
        values = np.array([template[contrast] for template in neurons])  # (templates, neurons)
        means.append(values.mean(axis=0))
        tests.append(t_test_p(values))
    return SiteContrasts(
        site.layer,
        {view: _view(experiment, lexicon, units) for view, units in vectors.items()},
        NeuronContrasts(np.array(means), np.array(tests)),
        tuple(_established(experiment, lexicon, prompts, site.layer)),
    )


Prompts = dict[str, tuple[Floats, Tokens]]
"""Word -> activations of its prompt, (tokens, neurons), and the prompt's tokens."""


def _by_template(
    experiment: AssociationExperiment, activations: Activations[list[Floats]], site: Site
) -> Iterator[Prompts]:
    """Yield the prompts of each template by their words."""
    words, arrays = experiment.words, activations[site]
    for start in range(0, len(arrays), len(words)):
        yield {
            word: (arrays[start + number], activations.tokens[start + number])
            for number, word in enumerate(words)
        }


def _units(
    prompts: Prompts, gap: Gap, view: str, baseline: Moments, *, causal: bool
) -> Vectors | None:
    """Return the standardised unit vector of each word in one template; None without a position.

    In the view `span` it is (neurons,), the mean over the word's tokens; in the view `context` it
    is (positions x neurons,), the template's other words in order.
    """
    vectors = {}
    for word, (values, tokens) in prompts.items():
        span = gap.span(tokens)
        if view == "span":
            kept = values[span][tokens.words[span]].mean(axis=0)
        else:
            shared = tokens.words.copy()
            shared[slice(0, span.stop) if causal else span] = False
            if not shared.any():
                return None
            kept = values[shared]
        vectors[word] = unit_vectors(baseline.standardise(kept).ravel())
    return vectors


def _terms(
    experiment: AssociationExperiment, lexicon: Lexicon, units: Vectors | None
) -> Iterator[tuple[Doubles, Doubles]]:
    """Yield the terms of the raw and the controlled contrast of each contrast in one template."""
    assert units is not None
    for role, a, b in experiment.contrasts:
        yield contributions(
            units[role],
            _stack(units, lexicon.controls[role]),
            _stack(units, experiment.groups[a]),
            _stack(units, experiment.groups[b]),
        )


def _view(
    experiment: AssociationExperiment, lexicon: Lexicon, templates: Sequence[Vectors | None]
) -> ViewContrasts:
    """Return the contrasts of all templates in one view."""
    shape = len(templates), len(experiment.contrasts)
    raw, controlled = (np.full(shape, np.nan) for _ in range(2))
    for number, units in enumerate(templates):
        if units is not None:
            terms = list(_terms(experiment, lexicon, units))
            raw[number] = [own.sum() for own, _ in terms]
            controlled[number] = [difference.sum() for _, difference in terms]
    known = [units for units in templates if units is not None]
    return ViewContrasts(raw, controlled, _drawn(experiment, lexicon, known))


def _drawn(
    experiment: AssociationExperiment, lexicon: Lexicon, templates: Sequence[Vectors]
) -> Doubles:
    """Return the controlled contrasts of random control groups, (draws, contrasts)."""
    contrasts = experiment.contrasts
    if not lexicon.substitutes or not templates:
        return np.empty((0, len(contrasts)))
    words = {word: number for number, word in enumerate(experiment.control_words)}
    draws = draw_substitutes(lexicon, DRAWS, experiment.seed)
    chosen = np.array([[words[word] for word in draw] for draw in draws])
    places = {word: number for number, word in enumerate(lexicon.substitutes)}
    drawn = np.empty((DRAWS, len(contrasts)))
    for number, (role, *pair) in enumerate(contrasts):
        nearer = np.mean(
            [_nearer(lexicon, role, units, list(words)) for units in templates], axis=0
        )
        a, b = ([places[word] for word in experiment.groups[name]] for name in pair)
        drawn[:, number] = nearer[chosen[:, a]].mean(axis=1) - nearer[chosen[:, b]].mean(axis=1)
    return drawn


def _nearer(lexicon: Lexicon, role: str, units: Vectors, words: Sequence[str]) -> Doubles:
    """Return how much more alike each word is with a role than with its control roles, (words,)."""
    controls = _stack(units, lexicon.controls[role]).mean(axis=0)
    nearer: Doubles = _stack(units, words) @ (units[role] - controls)
    return nearer


def _established(
    experiment: AssociationExperiment, lexicon: Lexicon, prompts: Sequence[Prompts], layer: int
) -> Iterator[EstablishedRow]:
    """Yield WEAT of the words, averaged over templates, and SEAT of the sentences."""
    items = {
        "weat": {
            word: np.mean([_word(template[word], gap) for template, gap in both], axis=0)[None]
            for word in experiment.words
            for both in [list(zip(prompts, lexicon.gaps, strict=True))]
        },
        "seat": {
            word: np.array([_sentence(*template[word]) for template in prompts])
            for word in experiment.words
        },
    }
    for measure, vectors in items.items():
        for role, a, b in experiment.contrasts:
            x, y, attributes, controls = (
                np.concatenate([vectors[word] for word in words])
                for words in (
                    experiment.groups[a],
                    experiment.groups[b],
                    [role],
                    lexicon.controls[role],
                )
            )
            tested = weat(x, y, attributes, controls, seed=experiment.seed)
            count = len(x) + len(y)
            yield EstablishedRow(layer, measure, role, a, b, tested.d, tested.p, count)


def _word(prompt: tuple[Floats, Tokens], gap: Gap) -> Doubles:
    """Return the mean activation of a word's tokens, (neurons,)."""
    values, tokens = prompt
    span = gap.span(tokens)
    mean: Doubles = values[span][tokens.words[span]].mean(axis=0, dtype=np.float64)
    return mean


def _sentence(values: Floats, tokens: Tokens) -> Doubles:
    """Return the mean activation of a prompt's content tokens, (neurons,)."""
    mean: Doubles = values[tokens.content].mean(axis=0, dtype=np.float64)
    return mean


def _stack(units: Vectors, words: Sequence[str]) -> Doubles:
    """Return the vectors of words, (words, neurons)."""
    return np.array([units[word] for word in words])
