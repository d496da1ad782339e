"""Harmless rewording of prompts, and the distance it causes."""

import pytest

from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.prompts import PromptSet
from neuroscope.stats.paired import neuron_distances, spread
from neuroscope.studies.drift.agreement import NeuronDistance
from neuroscope.studies.drift.rewording import (
    REWORDINGS,
    Rewording,
    rewording_distances,
    rewording_unit,
)

PROMPTS = PromptSet.of(["the cat sits .", "the dog runs", "a small boy walks on the mat !"])


def test_each_rewording_changes_what_it_names():
    texts = {change: reword("The cat  sat. ") for change, reword in REWORDINGS.items()}
    assert texts["case"] == "the cat  sat. "
    assert texts["double spaces"] == "The  cat  sat.  "
    assert REWORDINGS["case"]("the cat") == "THE CAT"
    ends = map(
        REWORDINGS["final punctuation"], ("The cat sat.", "The cat sat", "Why ?", "...", " .")
    )
    assert list(ends) == ["The cat sat", "The cat sat.", "Why", "....", " .."]


def test_distances_are_those_of_the_reworded_prompts(family_folder):
    model = load_model(str(family_folder("bert")))
    acts = extract(model, PROMPTS, "mlp_act")
    base = {site: acts[site] for site in acts}
    options = {"pool": "mean", "truncate": False}
    rewordings = {
        row.change: row
        for row in rewording_distances(model, PROMPTS, base, NeuronDistance(), **options)
    }
    assert rewordings["double spaces"] == Rewording("double spaces", 0.0, 0.0)
    texts = list(map(REWORDINGS["final punctuation"], PROMPTS.texts))
    other = extract(model, texts, "mlp_act")
    expected = max(
        spread(neuron_distances(acts[site], other[site]).distance).median for site in acts
    )
    assert rewordings["final punctuation"].distance == pytest.approx(expected, rel=1e-4)
    assert rewordings["final punctuation"].changed == 1
    assert rewording_unit(list(rewordings.values())) > 0


def test_a_prompt_at_the_limit_may_be_reworded(family_folder):
    model = load_model(str(family_folder("bert")))
    limit = model.module.config.max_position_embeddings
    prompts = PromptSet.of([" ".join(["cat"] * (limit - 2)), "the dog runs"])
    acts = extract(model, prompts, "mlp_act")
    base = {site: acts[site] for site in acts}
    rows = rewording_distances(model, prompts, base, NeuronDistance(), pool="mean", truncate=False)
    assert {row.change: row.changed for row in rows}[
        "final punctuation"
    ] == 0.5  # the longest is cut


def test_the_unit_is_the_mean_of_the_rewordings_that_change_tokens():
    rows = [Rewording("a", 0.0, 0.0), Rewording("b", 0.2, 0.5), Rewording("c", 0.4, 1.0)]
    assert rewording_unit(rows) == pytest.approx(0.3)
    assert rewording_unit(rows[:1]) != rewording_unit(rows[:1])
