"""Smaller versions of the experiments of docs/validation.md."""

from pathlib import Path

import pytest
from layered import labelled_prompts
from models import make_model

from benchmarks.drift import results
from benchmarks.validation import (
    binned_scores,
    equal,
    false_alarms,
    ladders,
    one_layer,
    one_topic,
    planted_neurons,
)
from benchmarks.validation.__main__ import PAGE, SECTIONS
from benchmarks.validation.changes import add_noise, copy_model, prune, round_to_integers
from benchmarks.validation.checks import FEW, Base
from benchmarks.validation.false_alarms import BENIGN, Draw
from benchmarks.validation.outcome import figure
from benchmarks.validation.subjects import create_versions
from benchmarks.validation.synthetic import PLANTED, generate, words_of, write_labelled


@pytest.fixture
def prompts(tmp_path):
    """Return a file of 72 prompts on three topics."""
    rows = [(prompt.text, prompt.labels["topic"]) for prompt in labelled_prompts()]
    return write_labelled(tmp_path / "prompts.csv", rows)


@pytest.fixture(params=["bert", "llama"])
def source(request, tmp_path):
    """Return the folder of a model of three layers, with a language-model head in llama."""
    head = request.param == "llama"
    return make_model(request.param, tmp_path / "base", layers=3, head=head)


def test_the_statistic_grows_with_the_change(source, prompts, tmp_path):
    changes = {
        "noise": {"small": add_noise(0.03), "large": add_noise(0.3)},
        "pruning": {"small": prune(0.1), "large": prune(0.5)},
        "rounding": {"8 bits": round_to_integers(8), "3 bits": round_to_integers(3)},
    }
    rungs = ladders.climb(
        Base(str(source), prompts),
        source,
        tmp_path / "ladder",
        prompts.read_text().splitlines(),
        causal=source.joinpath("generation_config.json").is_file(),
        rate=1e-3,
        changes=changes,
        steps=(1, 4),
    )
    outcome = ladders.outcome(rungs, 0.1)
    assert outcome.failures == () and "strictly monotone" in outcome.text
    assert len(rungs) == 8 and rungs[1].decision.p_value == 0.05
    reversed_ladder = ladders.outcome(rungs[:2][::-1], 0.1)
    assert reversed_ladder.failures


def test_a_change_of_one_layer_is_located(source, prompts, tmp_path):
    base, folder = Base(str(source), prompts), tmp_path / "copies"
    rows = one_layer.locate(base, "model", source, folder, layers=[1])
    assert [row.patched for row in rows] == [1]
    outcome = one_layer.outcome(rows)
    assert outcome.failures == (), outcome.text


def test_a_copy_is_identical(source, prompts, tmp_path):
    compared = equal.compare_copy(Base(str(source), prompts), "m", source, tmp_path / "copy")
    assert (compared.statistic, compared.verdict) == (0, "identical")
    assert equal.outcome([compared]).failures == ()


@pytest.mark.parametrize("benign", BENIGN.values())
def test_a_draw_compares_the_base_with_itself(benign, tmp_path):
    from benchmarks.random_checkpoint import ensure_checkpoint

    ensure_checkpoint(tmp_path, false_alarms.SHAPE)
    draw = false_alarms.draw(str(tmp_path), 20, benign, seed=1)
    assert draw.verdict == "compatible" and draw.p in {count / 20 for count in range(1, 21)}
    assert draw.largest or draw.p > 0.05


def test_the_rate_of_false_alarms_breaks_ties_at_random():
    alarm, tied = Draw(0.05, "compatible", True, 1), Draw(0.1, "compatible", True, 2)
    other = Draw(0.5, "compatible", False, 1)
    outcome = false_alarms.outcome({"x": [alarm, tied, *[other] * 28]})
    assert "| x | 30 | 0.033 | 0.050 | 0.033 | 0.000 |" in outcome.text
    assert outcome.failures == ()
    assert false_alarms.outcome({"x": [alarm] * 2 + [other] * 18}).failures


def test_a_version_trained_on_one_topic_names_it_and_its_words(tmp_path):
    versions = create_versions(tmp_path, steps=60, further=30, rate=2e-3)
    words = words_of(PLANTED)
    prompts = generate(80, seed=3)
    findings = one_topic.examine(
        str(versions.base), str(versions.other), prompts, PLANTED, words, tmp_path, **FEW
    )
    assert findings.ranking[0] == PLANTED
    assert len(findings.words) >= one_topic.LEAST_WORDS


def test_words_that_are_typical_of_a_topic():
    texts = [("Goal goal, and", "sports"), ("the goal and", "sports"), ("and the law", "law")]
    assert one_topic.typical_words(texts * 3, "sports") == {"goal"}
    assert one_topic.plain("ĠGoal") == "goal"


def test_the_validation_page_has_every_section():
    text = PAGE.read_text(encoding="utf-8")
    for section in SECTIONS:
        assert text.count(f"<!-- bench:{section} -->") == 1
        assert text.count(f"<!-- /bench:{section} -->") == 1


def test_copies_do_not_change_what_they_are_made_from(source, tmp_path):
    before = (source / "model.safetensors").read_bytes()
    copy: Path = copy_model(source, tmp_path / "copy", add_noise(0.1), layer=1)
    assert (source / "model.safetensors").read_bytes() == before
    assert (copy / "model.safetensors").read_bytes() != before


def test_figures_have_three_digits():
    assert [figure(x) for x in (0.0, 1.234e-4, 0.01234, 1234.5)] == [
        *("0", "1.23e-04", "0.0123", "1,234"),
    ]


def test_the_ratio_of_a_check_to_its_passes():
    text = results({"bare-drift": 100.0, "drift": 131.0}, 2000)
    assert "1.31 (target: at most 1.30; not met)" in text


def test_an_atlas_finds_planted_neurons_and_nothing_in_shuffled_labels():
    planted = [planted_neurons.draw(seed) for seed in range(2)]
    assert [one.found for one in planted] == [planted_neurons.PLANTED] * 2
    shuffled = [planted_neurons.draw(seed, shuffled=True) for seed in range(1)]
    assert not any(one.false for one in (*planted, *shuffled))
    assert sum(one.false_discoveries for one in planted) / 2 < 0.1


def test_scores_of_histograms_are_within_their_bounds():
    outcome = binned_scores.measure()
    assert outcome.failures == () and outcome.text.count("\n|") == 2 + 9 - 1
