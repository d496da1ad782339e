"""Sentences of a check of drift: each is true to its numbers, or left out."""

import numpy as np
import pytest

from neuroscope.studies.drift.agreement import Decision, SiteAgreement
from neuroscope.studies.drift.explanation import TopicDrift
from neuroscope.studies.drift.headline import explanation_sentences, verdict_sentence
from neuroscope.studies.drift.readers import Reader
from neuroscope.studies.drift.result import Explanation, Patching, Topics


def decision(verdict, lower, upper, p=0.05):
    return Decision(verdict, 0.1, lower, upper, 0.05, p, 0.05, 19, 0.001)


def site(component, layer, local, propagated=0.1):
    return SiteAgreement(
        component, layer, layer, cka=1.0, neighbours=1.0, one_minus_r=propagated, local=local
    )


def sentences(sites=(), readers=(), **explanation):
    text = explanation_sentences(
        sites, decision("drifted", 0.09, 0.11), [], None, readers, Explanation(**explanation)
    )
    return " ".join(text)


@pytest.mark.parametrize(
    ("verdict", "lower", "upper", "p", "reason"),
    [
        ("compatible", 0.01, 0.04, 0.05, "(0.01 to 0.04) is below the margin 0.05"),
        ("drifted", 0.09, 0.11, 0.05, "(0.09 to 0.11) is above the margin 0.05, p = 0.05"),
        ("inconclusive", 0.04, 0.11, 0.05, "on both sides of the margin 0.05 (0.04 to 0.11)"),
        ("inconclusive", 0.09, 0.11, 0.4, "not larger than that of enough benign replicates"),
    ],
)
def test_the_verdict_names_its_reason(verdict, lower, upper, p, reason):
    assert reason in verdict_sentence("v2", "v1", decision(verdict, lower, upper, p))


def test_a_change_that_only_the_residual_stream_shows_starts_there():
    """The neurons of the MLP are before its last matrix."""
    sites = [site("mlp_act", layer, 0.0) for layer in range(3)]
    sites += [site("resid_post", layer, 0.2 if layer == 1 else 0.0) for layer in range(3)]
    text = sentences(sites)
    assert "The change starts at layer 1 (1 - r = 0.2 at resid_post" in text
    assert "in no other layer is it larger than in benign replicates" in text


def test_layers_that_were_not_read_are_not_judged():
    assert "Layer 5, the only one that was read, has" in sentences([site("mlp_act", 5, 0.2)])
    text = sentences([site("mlp_act", layer, 0.2) for layer in (4, 5)])
    assert "Layer 4, the first one that was read, has itself changed" in text
    assert "None of the layers that were read" in sentences([site("mlp_act", 0, 0.0005)])
    assert sentences([site("mlp_act", 0, np.nan)]) == ""


def test_a_classifier_that_loses_nothing_is_not_mentioned():
    def readers(after, tested, error=0.1):
        accuracies = {"base": 1.0, "candidate": after, "candidate, mean and sd": 0.9}
        return [Reader(name, share, error, tested, 1.0) for name, share in accuracies.items()]

    assert "loses 50 points of accuracy (100% to 50%)" in sentences(readers=readers(0.5, 40))
    assert sentences(readers=readers(1.0, 40, error=0.0)) == ""
    assert sentences(readers=readers(0.8, 40)) == ""  # within two standard errors
    assert sentences(readers=readers(0.5, 4)) == ""


def test_a_topic_of_one_prompt_does_not_hide_the_one_that_stands_out():
    rows = [
        TopicDrift("Sports", 30, 10.0, 0.1, np.nan, np.nan),
        TopicDrift("World", 30, 1.0, 0.1, np.nan, np.nan),
        TopicDrift("Art", 1, 20.0, np.nan, np.nan, np.nan),
    ]
    assert "most on Sports (10): 10 times the mean" in sentences(topics=Topics(tuple(rows)))


def test_a_patch_that_makes_the_change_larger_undoes_nothing():
    def patched(first, last):
        return sentences(patching=Patching(("a", "b"), (first, last), (0.0, 0.0), 9))

    assert patched(-0.2, 1.0) == ""
    assert patched(0.3, -0.1).startswith("Patched in, the base's embeddings undo 30%")
    assert "undoes 0% of it: the rest" in patched(0.3, -0.1)
    assert "undoes 60% of the change of the outputs" in patched(-0.2, 0.6)
