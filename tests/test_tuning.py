"""How many tokens a batch holds: given, usual, or the fastest, found once and remembered."""

import json
import math
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from neuroscope.errors import NeuroscopeError
from neuroscope.extraction import tuning
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import TokenBudget, usual_budget
from neuroscope.extraction.models import load_model
from neuroscope.extraction.tuning import climb, fastest_budget, measure
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations
from neuroscope.studies import extract_plan
from neuroscope.studies.extract import extract_to

PROMPTS = PromptSet.of(["the cat sits on the mat ."] * 40 + ["a dog"] * 60)
SITES = (Site("mlp_act", 0), Site("resid_post", 1))


@pytest.fixture
def model(family_folder):
    return load_model(str(family_folder("bert")))


@pytest.mark.parametrize("best", [1, 256, 1024, 2048, 4096, 16384])
def test_the_fastest_budget_is_climbed_to(best):
    tried = []

    def speeds(budgets):
        tried.extend(budgets)
        return [1000 * 0.8 ** abs(math.log2(budget / best)) for budget in budgets]

    assert climb(2048, speeds) == best
    assert tried[:3] == [2048, 1024, 4096]
    assert max(tried) == max(4096, 2 * best if best > 2048 else 0)  # no more than needed


def test_a_gain_that_may_be_chance_changes_nothing():
    rates = {1024: 900, 2048: 1000, 4096: 1020}
    assert climb(2048, lambda budgets: [rates[one] for one in budgets]) == 2048


def test_a_budget_holds_something_and_less_once_memory_did_not_suffice():
    budget = TokenBudget(4096)
    budget.exceeded(2000)
    budget.exceeded(1500)
    assert budget() == 750
    budget.exceeded(1)
    assert budget() == 1
    assert (usual_budget("cpu"), usual_budget("cuda:1")) == (2048, 32768)
    with pytest.raises(NeuroscopeError, match="a budget of 0 tokens a batch holds nothing"):
        TokenBudget(0)


@pytest.fixture
def passes_that_take(model, monkeypatch):
    """Each pass takes as long by a clock of its own; memory suffices for `most` tokens."""
    now = [0.0]
    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    @contextmanager
    def passes(seconds, most=math.inf):
        def go_on(module, args, inputs):
            now[0] += seconds
            if inputs["input_ids"].numel() > most:
                raise torch.OutOfMemoryError("CUDA out of memory")

        watch = model.module.register_forward_pre_hook(go_on, with_kwargs=True)
        try:
            yield
        finally:
            watch.remove()

    return passes


def test_speeds_are_those_of_passes(model, passes_that_take):
    block = tokenise(model, PROMPTS.prompts)
    with passes_that_take(0.5):
        slow, fast = measure(model, SITES, block, [20, 80])
    # three passes: two of two prompts with 9 tokens, one of five with 4; then four times as many
    assert slow == pytest.approx((2 * 9 + 2 * 9 + 5 * 4) / 1.5)
    assert fast == pytest.approx(4 * slow)


def test_a_budget_that_memory_does_not_suffice_for_is_never_the_fastest(model, passes_that_take):
    block = tokenise(model, PROMPTS.prompts)
    with passes_that_take(1, most=50):
        small, large = measure(model, SITES, block, [20, 80])
    assert small > 0 == large


def test_what_was_found_is_remembered_for_the_model_and_the_machine(
    model, home, monkeypatch, passes_that_take
):
    monkeypatch.setattr(tuning, "usual_budget", lambda device: 20)
    asked = []

    def sample():
        asked.append(1)
        return tokenise(model, PROMPTS.prompts)

    with passes_that_take(1):
        found = fastest_budget(model, SITES, sample)
        assert found >= 80
        (kept,) = (home / "budgets").iterdir()
        assert json.loads(kept.read_text())["tokens"] == found
        assert fastest_budget(model, SITES, sample) == found
        assert len(asked) == 1
        for damaged in ('{"tokens"', "[]", '{"tokens": 0}'):  # tried anew
            kept.write_text(damaged)
            assert fastest_budget(model, SITES, sample) == found
        assert len(asked) == 4
        assert json.loads(kept.read_text())["tokens"] == found
        monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
        fastest_budget(model, SITES, sample)
    assert len(asked) == 5


def test_what_cannot_be_remembered_is_used_all_the_same(model, home, passes_that_take, caplog):
    home.mkdir(exist_ok=True)
    (home / "budgets").write_text("in the way")
    with passes_that_take(1):
        found = fastest_budget(model, SITES, lambda: tokenise(model, PROMPTS.prompts))
    assert found == 2048
    assert "2048 tokens a batch are fastest, which cannot be remembered in" in caplog.text


def test_of_two_that_try_at_once_both_take_what_was_remembered_first(model, home, passes_that_take):
    def sample():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tuning, "climb", lambda start, speeds: 77)
            fastest_budget(model, SITES, lambda: tokenise(model, PROMPTS.prompts))
        return tokenise(model, PROMPTS.prompts)

    with passes_that_take(1):
        assert fastest_budget(model, SITES, sample) == 77
        assert fastest_budget(model, SITES, sample) == 77


@pytest.fixture
def fastest(monkeypatch):
    """What the trials find, for jobs of any size."""
    found = [24]
    monkeypatch.setattr(extract_plan, "_WORTH_TUNING", 0)
    monkeypatch.setattr(tuning, "climb", lambda start, speeds: found[-1])
    return found


def assert_equal(one, other):
    one, other = read_activations(one.folder), read_activations(other.folder)
    for site in one:
        assert one[site].tobytes() == other[site].tobytes()


def test_a_large_job_takes_the_fastest_and_gives_the_values_of_that_budget(
    model, tmp_path, fastest, monkeypatch
):
    tuned = extract_to(tmp_path / "tuned", model, PROMPTS)
    assert tuned.manifest.provenance.batch_tokens == 24
    given = extract_to(tmp_path / "given", model, PROMPTS, budget=24)
    assert_equal(tuned, given)
    monkeypatch.setattr(extract_plan, "_WORTH_TUNING", 10**9)
    small = extract_to(tmp_path / "small", model, PROMPTS)
    assert small.manifest.provenance.batch_tokens == 2048


def test_a_folder_is_continued_with_the_budget_it_was_begun_with(model, tmp_path, fastest, home):
    whole = extract_to(tmp_path / "whole", model, PROMPTS)
    cut = extract_to(tmp_path / "cut", model, PROMPTS)
    (cut.folder / "resid_post.0" / "part-00000.parquet").unlink()
    (next((home / "budgets").iterdir())).unlink()
    fastest.append(48)
    again = extract_to(cut.folder, model, PROMPTS)
    assert (again.manifest.later, again.manifest.latest.batch_tokens) == ((), 24)
    assert_equal(again, whole)
    (cut.folder / "resid_post.0" / "part-00000.parquet").unlink()
    other = extract_to(cut.folder, model, PROMPTS, budget=12)  # as asked for, and noted
    assert [one.batch_tokens for one in other.manifest.later] == [12]


def test_a_streamed_model_takes_the_usual(family_folder, tmp_path, fastest):
    streamed = load_model(str(family_folder("bert")), memory="stream")
    stored = extract_to(tmp_path / "acts", streamed, PROMPTS)
    assert stored.manifest.provenance.batch_tokens == 2048
