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
from neuroscope.studies.association.words import Gap, Lexicon, draw_groups
from neuroscope.tokens import Tokens

VIEWS = ("span", "context")
"""Views: the word itself; the other words of its template, which it changes through attention."""


@dataclass(frozen=True, eq=False)
class ViewContrasts:
    """Contrasts in one view; NaN where a template has no position in the view."""

    raw: Doubles
    """(templates, contrasts)."""
    controlled: Doubles
    """(templates, contrasts)."""
    drawn: Doubles
    """(draws, contrasts) controlled contrasts of random groups, mean over templates; none without
    control words."""


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
    cosines: dict[str, list[Doubles | None]] = {view: [] for view in VIEWS}
    terms = []
    for words, gap in zip(prompts, lexicon.gaps, strict=True):
        for view in VIEWS:
            units = _units(words, gap, view, baseline, causal=causal)
            cosines[view].append(None if units is None else units @ units.T)
            if view == "span" and units is not None:
                terms.append(_terms(experiment, lexicon, units))
    views = {view: _view(experiment, lexicon, templates) for view, templates in cosines.items()}
    established = tuple(_established(experiment, lexicon, prompts, site.layer))
    return SiteContrasts(site.layer, views, _neurons(np.array(terms)), established)


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
) -> Doubles | None:
    """Return the standardised unit vector of each word in one template; None without a position.

    In the view `span` it is (words, neurons), of the mean over the word's tokens; in the view
    `context` it is (words, positions x neurons), of the template's other words in order.
    """
    vectors = []
    for values, tokens in prompts.values():
        span = gap.span(tokens)
        if view == "span":
            kept = values[span][tokens.words[span]].mean(axis=0)
        else:
            shared = tokens.words.copy()
            shared[slice(0, span.stop) if causal else span] = False
            if not shared.any():
                return None
            kept = values[shared]
        vectors.append(unit_vectors(baseline.standardise(kept).ravel()))
    return np.array(vectors)


def _terms(experiment: AssociationExperiment, lexicon: Lexicon, units: Doubles) -> Doubles:
    """Return the terms of the controlled contrasts in one template, (contrasts, neurons)."""
    places = {word: number for number, word in enumerate(experiment.words)}

    def vectors(words: Sequence[str]) -> Doubles:
        return units[[places[word] for word in words]]

    return np.array(
        [
            contributions(
                units[places[role]],
                vectors(lexicon.controls[role]),
                vectors(experiment.groups[a]),
                vectors(experiment.groups[b]),
            )[1]
            for role, a, b in experiment.contrasts
        ]
    )


def _neurons(terms: Doubles) -> NeuronContrasts:
    """Return mean and p-value of the terms of all templates, (templates, contrasts, neurons)."""
    return NeuronContrasts(
        terms.mean(axis=0), np.array([t_test_p(terms[:, each]) for each in range(terms.shape[1])])
    )


def _view(
    experiment: AssociationExperiment, lexicon: Lexicon, templates: Sequence[Doubles | None]
) -> ViewContrasts:
    """Return the contrasts in one view, from the cosines of all words in each template.

    They are the sums over neurons of what `contributions` returns.
    """
    places = {word: number for number, word in enumerate(experiment.words)}
    shape = len(templates), len(experiment.contrasts)
    raw, controlled = (np.full(shape, np.nan) for _ in range(2))
    known = [number for number, cosines in enumerate(templates) if cosines is not None]
    cosines = np.array([templates[number] for number in known])  # (templates, words, words)
    drawn = np.empty((0, shape[1]))
    if not known:
        return ViewContrasts(raw, controlled, drawn)
    nearer = []
    for contrast, (role, *pair) in enumerate(experiment.contrasts):
        own = cosines[:, places[role]]  # (templates, words)
        others = cosines[:, [places[word] for word in lexicon.controls[role]]].mean(axis=1)
        a, b = ([places[word] for word in experiment.groups[name]] for name in pair)
        for target, values in ((raw, own), (controlled, own - others)):
            target[known, contrast] = values[:, a].mean(axis=1) - values[:, b].mean(axis=1)
        nearer.append((own - others).mean(axis=0))
    if experiment.control_words:
        drawn = _drawn(experiment, lexicon, np.array(nearer))
    return ViewContrasts(raw, controlled, drawn)


def _drawn(experiment: AssociationExperiment, lexicon: Lexicon, nearer: Doubles) -> Doubles:
    """Return the controlled contrasts of random groups, (draws, contrasts).

    Args:
        experiment: experiment of kind `association`.
        lexicon: its words.
        nearer: (contrasts, words) how much more alike each word is with the role of a contrast than
            with its control roles, mean over templates.
    """
    places = {word: number for number, word in enumerate(experiment.words)}
    drawn = []
    for own, (_, a, b) in zip(nearer, experiment.contrasts, strict=True):
        groups = experiment.groups[a], experiment.groups[b]
        draws = draw_groups(lexicon, groups, experiment.control_words, seed=experiment.seed)
        pool = [places[word] for word in (*groups[0], *groups[1], *experiment.control_words)]
        values, first = own[pool][draws], len(groups[0])
        drawn.append(values[:, :first].mean(axis=1) - values[:, first:].mean(axis=1))
    return np.stack(drawn, axis=1)


def _established(
    experiment: AssociationExperiment, lexicon: Lexicon, prompts: Sequence[Prompts], layer: int
) -> Iterator[EstablishedRow]:
    """Yield WEAT of the words, averaged over templates, and SEAT of the sentences."""
    templates = list(zip(prompts, lexicon.gaps, strict=True))
    items = {
        "weat": {
            word: np.mean([_word(words[word], gap) for words, gap in templates], axis=0)[None]
            for word in experiment.words
        },
        "seat": {
            word: np.array([_sentence(*words[word]) for words in prompts])
            for word in experiment.words
        },
    }
    for measure, vectors in items.items():
        per_word = len(prompts) if measure == "seat" else 1
        for role, a, b in experiment.contrasts:
            words = experiment.groups[a], experiment.groups[b], [role], lexicon.controls[role]
            sets = [np.concatenate([vectors[word] for word in each]) for each in words]
            tested = weat(*sets, per_word=per_word, seed=experiment.seed)
            count = len(sets[0]) + len(sets[1])
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
