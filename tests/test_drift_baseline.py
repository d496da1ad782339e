"""Checks against a baseline: a file that stands for a base whose weights are gone."""

import shutil
import weakref
import zipfile

import numpy as np
import pytest
from drifting import QUICK, at, changed, drift

from neuroscope.errors import ExperimentError, ModelError, ResourceError
from neuroscope.extraction.models import load_model
from neuroscope.studies.drift.experiment import drift_experiment
from neuroscope.studies.drift.study import save_baseline


@pytest.fixture
def baseline(base, labelled, tmp_path):
    """Return a baseline of the base."""
    other = shutil.copytree(base, tmp_path / "other")
    experiment = drift_experiment(str(base), str(other), {"file": str(labelled)}, **QUICK)
    save_baseline(experiment, tmp_path / "news.baseline")
    return tmp_path / "news.baseline"


def test_a_baseline_gives_the_decision_of_the_base(base, labelled, baseline, home):
    candidate = changed(base, 0.5)
    expected = drift(base, candidate, labelled)
    shutil.rmtree(base)
    shutil.rmtree(home / "activations")
    found = drift(baseline, candidate, labelled)
    assert found.decision == expected.decision and found.rewordings == expected.rewordings
    assert found.readers == expected.readers
    for own, other in zip(at(found), at(expected), strict=True):
        assert (own.one_minus_r, own.cka) == (other.one_minus_r, other.cka)
        assert np.isnan(own.local)
    assert "layer 1 changed" in " ".join(found.differences)
    assert "baseline without weights" in " ".join(found.left_out)
    assert found.explanation.tokens_up == expected.explanation.tokens_up


def test_the_behaviour_is_that_of_the_base(base, labelled, baseline):
    candidate = changed(base, 0.5)
    expected, found = (drift(own, candidate, labelled).behaviour for own in (base, baseline))
    assert found.mean == pytest.approx(expected.mean, rel=1e-4)  # 64 tokens are the vocabulary
    if hasattr(expected, "same_top"):
        assert found.same_top == expected.same_top
        assert found.rms_change == pytest.approx(expected.rms_change, rel=1e-4)


def test_fewer_tokens_give_a_lower_bound_of_the_divergence(base, labelled, tmp_path, monkeypatch):
    candidate = changed(base, 0.5)
    expected = drift(base, candidate, labelled).behaviour
    if not hasattr(expected, "same_top"):
        pytest.skip("without a head there is no divergence of predictions")
    monkeypatch.setattr("neuroscope.extraction.recorded_outputs.KEPT_TOKENS", 4)
    experiment = drift_experiment(str(base), str(candidate), {"file": str(labelled)}, **QUICK)
    save_baseline(experiment, tmp_path / "few.baseline")
    found = drift(tmp_path / "few.baseline", candidate, labelled)
    assert 0.05 * expected.mean < found.behaviour.mean < expected.mean
    assert found.bounded and f"at least {found.behaviour.mean:.3g} nats" in found.summary
    assert "changed most on" not in found.summary


def test_equal_tensors_are_identical_to_a_baseline(base, labelled, baseline, tmp_path):
    copy = shutil.copytree(base, tmp_path / "copy")
    shutil.rmtree(base)
    assert drift(baseline, copy, labelled).decision.verdict == "identical"


def test_other_prompts_and_settings_are_refused(base, labelled, baseline, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(labelled.read_text() + '{"text": "one more", "topic": "x"}\n')
    with pytest.raises(ExperimentError, match="made with other prompts"):
        drift(baseline, base, other)
    with pytest.raises(ExperimentError, match="made with site mlp_act, not resid_post"):
        drift(baseline, base, labelled, site="resid_post")
    with pytest.raises(ExperimentError, match=r"9 replicates of the base.*has 3"):
        drift(baseline, changed(base, 0.5), labelled, replicates=9)


def test_damaged_files_are_refused(base, labelled, baseline, tmp_path):
    broken = tmp_path / "broken.baseline"
    broken.write_bytes(baseline.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a baseline, or is damaged"):
        drift(broken, base, labelled)
    with zipfile.ZipFile(shutil.copy(baseline, broken), "a") as archive:
        archive.writestr("../outside", "x")
    with pytest.raises(ModelError, match="unknown member"):
        drift(broken, base, labelled)
    assert not (tmp_path / "home" / "outside").exists()


def test_models_that_do_not_fit_together_run_one_after_the_other(base, labelled, monkeypatch):
    candidate = changed(base, 0.5)
    expected = drift(base, candidate, labelled)
    if not hasattr(expected.behaviour, "same_top"):
        pytest.skip("a model without a head can be streamed")
    loaded = []

    def load_one(checkpoint, *, head=False, memory="auto", **options):
        alive = [reference for reference in loaded if reference() is not None]
        if head and alive:
            raise ResourceError("it does not fit")
        model = load_model(checkpoint, head=head, memory="stream" if alive else memory, **options)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr("neuroscope.studies.drift.subjects.load_model", load_one)
    found = drift(base, candidate, labelled)
    assert found.decision == expected.decision
    assert found.behaviour.mean == pytest.approx(expected.behaviour.mean, rel=1e-4)
    assert found.behaviour.same_top == expected.behaviour.same_top
    assert "do not fit into memory together" in " ".join(found.left_out)
