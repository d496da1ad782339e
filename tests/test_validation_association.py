"""Smaller versions of the experiments with associations of docs/validation.md."""

import numpy as np
import pytest

from benchmarks.validation import (
    association,
    neutral_context,
    random_groups,
    rogue_dimension,
    weat,
)
from benchmarks.validation.association import PLANTED, Planted
from benchmarks.validation.neutral_context import Repeated, Similarities
from benchmarks.validation.outcome import limit
from benchmarks.validation.synthetic import generate, make_untrained, texts_of
from neuroscope.stats.weat import Weat

DRAWS = 60


@pytest.fixture(scope="module")
def tested():
    """Return the statistics of a few draws of everything that is planted."""
    return {
        name: association.Tested.of(association.draw(each, DRAWS)) for name, each in PLANTED.items()
    }


def test_the_control_removes_the_surface_and_keeps_the_interaction(tested):
    most = limit(0.05, DRAWS)
    assert max(tested["nothing"].rejected) <= most
    raw, controlled = tested["surface"].rejected
    assert raw > 0.9 and controlled <= most
    assert min(tested["surface and interaction"].rejected) > 0.9
    assert association.outcome(tested, DRAWS).failures == ()


def test_intervals_hold_the_mean_of_a_controlled_contrast(tested):
    assert tested["nothing"].covered(0.0) > 0.8 < tested["surface"].covered(0.0)
    interaction = tested["surface and interaction"]
    assert interaction.covered(interaction.truth) > 0.8
    assert interaction.covered(0.0) < 0.1


def test_neurons_of_a_strong_interaction_are_found(tested):
    drawn = tested["surface and strong interaction"].drawn
    assert drawn.found.mean() > 8 and drawn.false_discoveries.mean() < 0.05
    assert tested["surface"].drawn.false_discoveries.mean() < 0.05


def test_a_surface_that_is_not_controlled_is_a_failure(tested):
    surface, stronger = tested["surface"], tested["surface, twice as strong in the role"]
    assert stronger.rejected[1] > 0.9
    outcome = association.outcome(tested | {"surface": stronger}, DRAWS)
    assert [failure.partition(":")[0] for failure in outcome.failures] == [
        *("surface alone", "neurons"),
    ]
    assert association.outcome(tested | {"nothing": surface}, DRAWS).failures


def test_a_planted_component_is_in_both_contrasts():
    strong = association.draw(Planted(interaction=3.0), 20)
    assert strong.raw.shape == strong.controlled.shape == (association.TEMPLATES, 20)
    assert strong.controlled.mean() == pytest.approx(strong.raw.mean(), rel=0.1)
    surface = association.draw(Planted(surface=3.0), 20)
    assert surface.raw.mean() > 0.1 and abs(surface.controlled.mean()) < 0.01


def test_planted_shares_are_recovered():
    outcome = association.outcome_of_shares(
        [association.share(planted, 25) for planted in association.SHARES]
    )
    assert outcome.failures == () and "| 0.5 | 0." in outcome.text


def test_one_neuron_determines_the_raw_cosine_alone():
    assert rogue_dimension.measure(2).failures == ()
    ordinary = [rogue_dimension.draw(0, offset=0)]
    assert rogue_dimension.outcome(ordinary, ordinary).failures


def test_word_association_tests_find_what_is_planted():
    nothing, strong = weat.draw(6, 0.0, 80), weat.draw(6, 1.0, 10)
    assert abs(nothing.effects.mean()) < 0.2 and strong.effects.mean() > 1.5
    error = np.sqrt(0.05 * 0.95 / 80)
    assert nothing.rejected() < 0.05 + 3 * error and 0.3 < nothing.rejected(0.5) < 0.7
    assert strong.rejected() == 1


def test_p_values_that_are_not_uniform_are_a_failure():
    uniform = [Weat(0.0, p) for p in np.linspace(0.001, 1, 200)]
    significant = [Weat(1.5, 0.01)] * 200
    null, planted = weat.Drawn(6, 0.0, uniform), weat.Drawn(6, 1.0, significant)
    assert weat.outcome([null, planted]).failures == ()
    assert len(weat.outcome([weat.Drawn(6, 0.0, significant), planted]).failures) == 1
    assert len(weat.outcome([weat.Drawn(6, 0.0, [Weat(0, 1)] * 200), planted]).failures) == 1
    assert len(weat.outcome([null, weat.Drawn(6, 1.0, uniform)]).failures) == 1


def test_a_rise_is_one_beyond_two_standard_errors():
    before = np.array([0.1, 0.2, 0.3, 0.4])
    assert neutral_context.rises(before, before + np.array([0.1, 0.11, 0.1, 0.09]))
    assert not neutral_context.rises(before, before + np.array([0.1, -0.11, 0.1, -0.09]))
    assert not neutral_context.rises(before, before - 0.1)


def test_the_gap_is_what_prompts_do_not_share():
    ids = [(1, 5, 7, 2), (1, 5, 8, 9, 2), (1, 6, 2)]
    assert neutral_context.gaps_of(ids) == [slice(1, 3), slice(1, 4), slice(1, 2)]
    assert neutral_context.gaps_of([ids[0], ids[1]]) == [slice(2, 3), slice(2, 4)]


def test_nothing_before_the_gap_differs_in_a_causal_model(tmp_path):
    folder = make_untrained(tmp_path / "model", layers=2)
    texts = texts_of(generate(40, seed=1))
    subject = neutral_context.causal_subject("m", str(folder), neutral_context.synthetic(), texts)
    none, many = neutral_context.repeat(subject, (0, 8))
    assert none.values("tokens").mean() + 40 == many.values("tokens").mean()
    for row in (none, many):
        assert row.values("before").max() <= neutral_context.MOST_BEFORE
    assert many.values("pooled").min() > none.values("pooled").max()


def test_words_before_the_gap_differ_in_an_encoder():
    subject = neutral_context.encoder_subject("minilm", "minilm")
    (row,) = neutral_context.repeat(subject, [1])
    assert row.values("before").min() > 0.01
    for name in ("pooled", "span", "raw", "controlled"):
        assert (np.abs(row.values(name)) < 1).all()


def test_a_similarity_that_rises_is_a_failure():
    def row(repetitions, *values, before=0.0):
        return Repeated("m", True, repetitions, [Similarities(9, *values, before)] * 3)

    without, same = row(0, 0.8, 0.1, 0.2, 0.3), row(8, 0.9, 0.1, 0.2, 0.3)
    assert neutral_context.outcome([[without, same]]).failures == ()
    for changed in (
        row(8, 0.7, 0.1, 0.2, 0.3),
        row(8, 0.9, 0.1, 0.3, 0.3),
        row(8, 0.9, 0.1, 0.2, 0.4),
        row(8, 0.9, 0.1, 0.2, 0.3, before=0.1),
    ):
        assert len(neutral_context.outcome([[without, changed]]).failures) == 1


def test_words_that_mean_nothing_rarely_exceed_random_groups():
    outcome = random_groups.measure(100, [(1, 1, 24), (2, 2, 5)])
    assert outcome.failures == () and outcome.text.count("\n| ") == 3
    rates = random_groups.reject(1, 1, 5, 20)
    assert rates.at_1 == 0  # there are too few groups for a small p-value
