"""Summaries of divergence per token, compared with SciPy, hand calculation and simulation."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from neuroscope.stats.divergence import summarise_kl


def predicted(seed, tokens=300, vocabulary=50, noise=0.5):
    """Return KL, equality of the top tokens and change of the actual token of two models."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(tokens, vocabulary))
    p, q = (
        scipy.special.softmax(values, axis=1)
        for values in (logits, logits + noise * rng.normal(size=logits.shape))
    )
    actual = rng.integers(vocabulary, size=tokens), np.arange(tokens)
    kl = scipy.stats.entropy(p, q, axis=1)
    return kl, p.argmax(axis=1) == q.argmax(axis=1), (q - p)[actual[1], actual[0]]


def test_every_figure_equals_its_definition():
    kl, same, change = predicted(0)
    summary = summarise_kl(kl, same, change, np.repeat(np.arange(30), 10))
    assert (summary.tokens, summary.prompts) == (300, 30)
    assert summary.mean == pytest.approx(kl.mean())
    levels = [summary.median, summary.q90, summary.q95, summary.q99, summary.q999, summary.maximum]
    assert levels == pytest.approx(np.percentile(kl, [50, 90, 95, 99, 99.9, 100]))
    assert summary.same_top == same.mean() and 0.5 < summary.same_top < 1
    assert summary.mean_change == pytest.approx(change.mean())
    assert summary.rms_change == pytest.approx(np.sqrt((change**2).mean()))


def test_with_equally_long_prompts_the_error_is_that_of_the_prompts_means():
    kl, same, change = predicted(1)
    summary = summarise_kl(kl, same, change, np.repeat(np.arange(30), 10))
    for error, values in ((summary.mean_error, kl), (summary.same_top_error, same)):
        means = values.reshape(30, 10).mean(axis=1)
        assert error == pytest.approx(scipy.stats.sem(means))


def test_with_one_token_per_prompt_the_error_is_that_of_the_tokens():
    kl, same, change = predicted(2)
    summary = summarise_kl(kl, same, change, np.random.default_rng(0).permutation(300))
    assert summary.mean_error == pytest.approx(scipy.stats.sem(kl))


def test_the_error_of_prompts_of_different_lengths():
    kl, prompts = np.array([1.0, 2, 3, 6]), np.array([7, 7, 7, 2])
    summary = summarise_kl(kl, kl > 1, kl[:1], prompts)
    # the deviations from the mean 3 add up to -3 and 3
    assert summary.mean_error == pytest.approx(np.sqrt(2 / 1 * (9 + 9)) / 4)
    assert summary.rms_change == 1


def test_the_error_is_the_spread_of_the_mean_over_repeated_samples_of_prompts():
    rng = np.random.default_rng(0)
    means, errors, naive = [], [], []
    for _ in range(1000):
        lengths = rng.integers(1, 12, size=60)
        prompts = np.repeat(np.arange(60), lengths)
        kl = rng.gamma(2, size=60)[prompts] + rng.exponential(size=lengths.sum())
        summary = summarise_kl(kl, kl > 3, kl, prompts)
        means.append(summary.mean)
        errors.append(summary.mean_error)
        naive.append(scipy.stats.sem(kl))
    spread = np.std(means, ddof=1)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.08)
    assert np.mean(naive) < 0.7 * spread  # tokens as units would claim too much


def test_equal_models_have_no_divergence():
    summary = summarise_kl(np.zeros(9), np.ones(9, bool), np.zeros(9), np.arange(9) // 3)
    assert (summary.mean, summary.mean_error, summary.maximum, summary.rms_change) == (0, 0, 0, 0)
    assert (summary.same_top, summary.same_top_error) == (1, 0)


def test_a_single_prompt_has_no_standard_error():
    kl, same, change = predicted(3)
    summary = summarise_kl(kl, same, change, np.zeros(300, dtype=int))
    assert summary.mean == pytest.approx(kl.mean()) and summary.prompts == 1
    assert np.isnan([summary.mean_error, summary.same_top_error]).all()


def test_shapes_that_do_not_match_are_refused():
    kl, same, change = predicted(4)
    prompts = np.arange(300)
    for arguments in (
        (kl[1:], same, change, prompts),
        (kl, same[1:], change, prompts),
        (kl, same, change, prompts[1:]),
        (kl, same, change[:, None], prompts),
    ):
        with pytest.raises(ValueError, match=r"\b300\b"):
            summarise_kl(*arguments)
    for arguments in ((kl[:0], same[:0], change, prompts[:0]), (kl, same, change[:0], prompts)):
        with pytest.raises(ValueError, match="no value"):
            summarise_kl(*arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    for name in ("kl", "change"):
        values = dict(zip(("kl", "same_top", "change"), predicted(5), strict=True))
        values[name][7] = value
        with pytest.raises(ValueError, match=name):
            summarise_kl(**values, prompts=np.arange(300))
