"""Realignments, which recover planted shifts, scales and rotations."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from neuroscope.stats.alignment import MeanSd, Procrustes


def normal(seed, prompts, neurons):
    return np.random.default_rng(seed).normal(size=(prompts, neurons)).astype(np.float32)


def test_a_planted_shift_and_scale_are_recovered():
    base = normal(0, 200, 12) * np.logspace(-1, 2, 12) + 4
    candidate = base * np.linspace(0.2, 5, 12) - 7
    realignment = MeanSd.fit(candidate[:150], base[:150])
    np.testing.assert_allclose(realignment.apply(candidate[150:]), base[150:], rtol=1e-9, atol=1e-9)


def test_mean_and_sd_of_realigned_activations_are_those_of_the_target():
    source, target = normal(1, 90, 5) * 3, normal(2, 70, 5) + 2
    realigned = MeanSd.fit(source, target).apply(source)
    np.testing.assert_allclose(realigned.mean(axis=0), target.mean(axis=0, dtype=float), rtol=1e-9)
    expected = target.std(axis=0, ddof=1, dtype=float)
    np.testing.assert_allclose(realigned.std(axis=0, ddof=1), expected, rtol=1e-9)


def test_a_neuron_that_is_constant_in_the_source_becomes_the_mean_of_the_target():
    source, target = normal(1, 30, 3), normal(2, 30, 3)
    source[:, 1] = 0.125
    realigned = MeanSd.fit(source, target).apply(source + 1)
    np.testing.assert_allclose(realigned[:, 1], target[:, 1].mean(dtype=float), rtol=1e-12)


def test_a_planted_rotation_and_shift_are_recovered():
    base = normal(0, 200, 12) * np.linspace(0.5, 3, 12) + 4
    rotation = ortho_group.rvs(12, random_state=1)
    candidate = base @ rotation - 7
    realignment = Procrustes.fit(candidate[:150], base[:150])
    np.testing.assert_allclose(realignment.rotation, rotation.T, atol=1e-10)
    np.testing.assert_allclose(realignment.apply(candidate[150:]), base[150:], atol=1e-9)


def test_procrustes_keeps_distances_and_does_not_scale():
    source, target = normal(0, 80, 6), 100 * normal(1, 80, 6)
    realignment = Procrustes.fit(source, target)
    np.testing.assert_allclose(realignment.rotation @ realignment.rotation.T, np.eye(6), atol=1e-12)
    realigned = realignment.apply(source)
    np.testing.assert_allclose(realigned.mean(axis=0), target.mean(axis=0, dtype=float), atol=1e-5)
    assert np.ptp(realigned, axis=0).max() < 10


def test_each_realignment_undoes_its_own_change_only():
    base = normal(0, 300, 8)
    rotated, rescaled = base @ ortho_group.rvs(8, random_state=1), base * np.linspace(0.2, 5, 8)
    errors = [
        np.abs(method.fit(changed, base).apply(changed) - base).max()
        for method in (MeanSd, Procrustes)
        for changed in (rescaled, rotated)
    ]
    assert errors[0] < 1e-6 and errors[3] < 1e-5
    assert errors[1] > 0.5 and errors[2] > 0.5


@pytest.mark.parametrize("method", [MeanSd, Procrustes])
def test_models_of_another_width_are_refused(method):
    with pytest.raises(ValueError, match=r"\b4\b.*\(20, 5\)"):
        method.fit(normal(0, 20, 5), normal(1, 20, 4))
    realignment = method.fit(normal(0, 20, 5), normal(1, 20, 5))
    for shape in ((20, 4), (5,)):
        with pytest.raises(ValueError, match=r"\b5\b.*\("):
            realignment.apply(np.ones(shape))


@pytest.mark.parametrize("method", [MeanSd, Procrustes])
def test_activations_that_are_not_finite_are_refused(method):
    source = normal(0, 20, 5)
    source[3, 2] = np.inf
    with pytest.raises(ValueError, match=r"\b2\b"):
        method.fit(source, normal(1, 20, 5))


def test_procrustes_needs_the_same_prompts():
    with pytest.raises(ValueError, match=r"\b20\b.*\b21\b"):
        Procrustes.fit(normal(0, 20, 5), normal(1, 21, 5))
