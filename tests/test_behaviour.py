"""Changes of predictions and of final representations, against scipy and by hand."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from neuroscope.extraction import behaviour
from neuroscope.extraction.behaviour import (
    compare_predictions,
    compare_representations,
    expected_counts,
    token_divergence,
)


@pytest.fixture(params=[2**23, 30], ids=["at once", "in parts"])
def logits(request, monkeypatch):
    """Return the logits of two models at 7 positions and 11 tokens, and the actual tokens."""
    monkeypatch.setattr(behaviour, "_LOGITS_AT_ONCE", request.param)
    generator = torch.Generator().manual_seed(0)
    base = 4 * torch.randn(7, 11, generator=generator)
    candidate = base + torch.randn(7, 11, generator=generator)
    return base, candidate, torch.arange(7)


def test_predictions_equal_scipy(logits):
    base, candidate, actual = logits
    changes = compare_predictions(*logits)
    p, q = (softmax(x.double().numpy(), axis=1) for x in (base, candidate))
    np.testing.assert_allclose(changes.kl, rel_entr(p, q).sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(changes.same_top, p.argmax(axis=1) == q.argmax(axis=1))
    rows = np.arange(7)
    np.testing.assert_allclose(changes.base, np.log(p[rows, actual]), rtol=1e-5)
    np.testing.assert_allclose(changes.candidate, np.log(q[rows, actual]), rtol=1e-5)
    np.testing.assert_array_equal(token_divergence(base, candidate, logits=True), changes.kl)
    backwards = changes.ordered(rows[::-1])
    assert backwards.kl.tolist() == changes.kl[::-1].tolist()


def test_expected_counts_are_sums_of_probabilities(logits):
    base, *_ = logits
    groups = np.array([0, 2, 0, 0, 2, 2, 2])
    p = softmax(base.double().numpy(), axis=1)
    expected = [p[groups == group].sum(axis=0) for group in range(3)]
    np.testing.assert_allclose(expected_counts(base, groups, 3), expected, rtol=1e-5, atol=1e-12)


def test_small_divergences_keep_their_digits():
    base = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0))
    change = 1e-4 * torch.randn(5, 1000, generator=torch.Generator().manual_seed(1))
    exact = base.double().numpy(), (base + change).double().numpy()
    p, q = (log_softmax(x, axis=1) for x in exact)
    expected = (np.exp(p) * (p - q)).sum(axis=1)  # about 5e-9, of terms that cancel
    kl = token_divergence(base, base + change, logits=True)
    np.testing.assert_allclose(kl, expected, rtol=2e-3)


def test_equal_outputs_have_no_divergence(logits):
    base, _, actual = logits
    changes = compare_predictions(base, base.clone(), actual)
    assert changes.kl.tolist() == [0.0] * 7 and changes.same_top.all()
    assert compare_representations(base, base.clone()).tolist() == [0.0] * 7


def test_an_improbable_token_that_becomes_certain_counts():
    base = torch.tensor([[0.0, -2000.0, -2000.0]])
    candidate = torch.tensor([[-2000.0, 0.0, -2000.0]])
    assert token_divergence(base, candidate, logits=True) == pytest.approx([2000.0])


def test_representations_equal_scipy():
    from scipy.spatial.distance import cosine

    a, b = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = [cosine(x, y) for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)]
    np.testing.assert_allclose(compare_representations(a, b), expected, rtol=1e-9)
    assert token_divergence(a, b, logits=False).tolist() == compare_representations(a, b).tolist()
