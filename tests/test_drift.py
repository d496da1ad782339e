"""Checks of drift in tiny models whose changes are planted."""

import json
import shutil

import numpy as np
import pytest
import torch
from drifting import CHANGED, at, changed, drift
from mlflow import MlflowClient
from models import copy_with_weights, make_model

import neuroscope as ns
from neuroscope.errors import ExperimentError, NonfiniteError
from neuroscope.reporting.tracking import Tracker
from neuroscope.studies.drift.replicates import run_replicates


def test_equal_files_are_identical_and_no_model_is_loaded(base, labelled, tmp_path, monkeypatch):
    monkeypatch.setattr("neuroscope.studies.drift.subjects.load_model", None)
    result = drift(base, shutil.copytree(base, tmp_path / "copy"), labelled)
    assert (result.decision.verdict, result.decision.statistic) == ("identical", 0.0)
    assert result.basis == "files" and result.sites == ()


def test_only_the_changed_layer_has_a_local_distance(base, labelled):
    result = drift(base, changed(base, 0.5), labelled, margin=0.001)
    for component in ("mlp_act", "resid_post"):
        local = [row.local for row in at(result, component)]
        assert local[CHANGED] > 1e-4
        assert max(local[:CHANGED] + local[CHANGED + 1 :]) < 1e-9
    propagated = [row.one_minus_r for row in at(result)]
    assert propagated[0] < 1e-9 and min(propagated[CHANGED:]) > 1e-4
    assert result.decision.statistic == pytest.approx(max(propagated))
    assert f"starts at layer {CHANGED}" in result.summary
    assert "layer 1 changed" in " ".join(result.differences)


def test_the_verdict_follows_the_margin(base, labelled):
    candidate = changed(base, 0.5)
    statistic = drift(base, candidate, labelled).decision.statistic
    settings = {"replicates": 19, "alpha": 0.05, "benign": ["batches", "padding"]}
    drifted = drift(base, candidate, labelled, margin=statistic / 4, **settings).decision
    assert (drifted.verdict, drifted.p_value) == ("drifted", 0.05)
    assert drifted.lower < drifted.statistic < 1.5 * drifted.upper
    compatible = drift(base, candidate, labelled, margin=min(2.0, statistic * 4)).decision
    assert compatible.verdict == "compatible"
    close = drift(base, candidate, labelled, margin=statistic).decision
    assert close.verdict == "inconclusive" and close.lower < statistic < close.upper


def test_patching_finds_the_changed_layer(base, labelled):
    patching = drift(base, changed(base, 0.5), labelled).explanation.patching
    returned = dict(zip(patching.sites, patching.returned, strict=True))
    assert returned["resid_pre.0"] == pytest.approx(0, abs=1e-6)
    assert returned["resid_post.0"] == pytest.approx(0, abs=1e-6)
    assert returned["resid_post.1"] == pytest.approx(1, abs=1e-6)
    assert returned["resid_post.2"] == pytest.approx(1, abs=1e-6)


def test_behaviour_is_that_of_the_head_or_of_the_final_representation(base, labelled):
    result = drift(base, changed(base, 0.5), labelled)
    entry = result.to_dict()["behaviour"]
    if json.loads((base / "config.json").read_text())["model_type"] == "llama":
        assert entry["mean"] > 0 and 0 < entry["same_top"] < 1
        assert result.explanation.tokens_up or result.explanation.tokens_down
    else:
        assert set(entry) == {"mean", "median", "q99", "maximum"} and entry["mean"] > 0


def test_distances_grow_with_the_change(base, labelled):
    statistics = [
        drift(base, changed(base, scale, name=str(scale)), labelled).decision.statistic
        for scale in (0.01, 0.1, 0.5)
    ]
    assert statistics == sorted(statistics) and statistics[0] > 0


def test_one_model_in_two_number_formats(base, labelled):
    same = drift(base, base, labelled)
    assert (same.decision.verdict, same.basis, same.sites) == ("identical", "files", ())
    result = drift(base, base, labelled, candidate_dtype="bfloat16")
    assert 0 < result.decision.statistic < 0.01
    assert result.decision.verdict == "compatible"


def test_few_prompts_and_unknown_labels_are_refused(base, tmp_path, labelled):
    few = tmp_path / "few.txt"
    few.write_text("the cat sits\nthe dog sits\n")
    with pytest.raises(ExperimentError, match=r"20.*2"):
        drift(base, changed(base, 0.1), few)
    with pytest.raises(ExperimentError, match=r"2 replicates.*19"):
        drift(base, changed(base, 0.1), labelled, replicates=2, alpha=0.05)
    with pytest.raises(ExperimentError, match=r"'no'.*topic"):
        drift(base, changed(base, 0.1), labelled, label="no")


def test_nan_in_the_weights_is_named_before_any_pass(base, labelled, home):
    """The error names the model, base or candidate, and the tensor."""
    names = []

    def damage(weights):
        name = next(key for key in weights if f".{CHANGED}." in key and weights[key].ndim == 2)
        names.append(name.removeprefix("model."))
        return weights | {name: torch.full_like(weights[name], np.nan)}

    damaged = copy_with_weights(base, base.parent / "damaged", damage)
    for models in ((base, damaged), (damaged, base)):
        with pytest.raises(NonfiniteError, match=rf"weights of '.*damaged' .*{names[0]}"):
            drift(*models, labelled)
    assert not (home / "activations").exists()


def test_a_run_is_recorded_with_its_verdict_and_both_models(base, labelled, database):
    tracker = Tracker.open()
    result = drift(base, changed(base, 0.5), labelled, tracker)
    run = MlflowClient(tracking_uri=tracker.uri).get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["neuroscope.drift.verdict"] == result.decision.verdict
    assert run.data.tags["neuroscope.base"] == str(base)
    assert run.data.metrics["drift/statistic"] == pytest.approx(result.decision.statistic)
    assert len(run.inputs.model_inputs) == 2
    curve = tracker.metrics(result.run_id)["mlp_act/local"]
    assert list(curve) == [0, 1, 2] and curve[CHANGED] == max(curve.values())
    report = tracker.artifact(result.run_id, "report.html").read_text()
    assert result.decision.verdict in report
    document = json.loads(tracker.artifact(result.run_id, "drift.json").read_text())
    assert document["layers"][0]["site"] == "mlp_act"


@pytest.mark.parametrize("shape", [{"layers": 5}, {"intermediate_size": 64}, {"hidden_size": 48}])
def test_models_of_another_shape_are_compared_by_geometry(shape, tmp_path, labelled, database):
    base = make_model("llama", tmp_path / "base", layers=3, head=True)
    candidate = make_model(
        "llama", tmp_path / "other", head=True, seed=1, **({"layers": 3} | shape)
    )
    result = drift(base, candidate, labelled, Tracker.open(), margin=0.1)
    assert result.basis == "representations" and result.decision.verdict == "drifted"
    assert result.decision.statistic == pytest.approx(1 - min(row.cka for row in at(result)))
    assert result.decision.lower < result.decision.statistic < result.decision.upper
    matches = [row.match for row in at(result)]
    assert matches == ([1, 2, 4] if "layers" in shape else [0, 1, 2])
    assert all(np.isnan(row.one_minus_r) for row in result.sites)
    assert result.behaviour.mean > 0.1  # both have the same tokens
    assert bool(result.readers) == ("hidden_size" not in shape)
    assert "shape" in result.left_out[0]


def test_a_candidate_with_added_tokens_keeps_its_basis(tmp_path, labelled):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = make_model("llama", tmp_path / "base", layers=3, head=True)
    candidate = tmp_path / "candidate"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["zebra"])
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(candidate)
    tokenizer.save_pretrained(candidate)
    result = drift(base, candidate, labelled)
    assert result.basis == "neurons" and result.decision.verdict == "compatible"
    assert result.decision.statistic < 1e-9 and result.behaviour.mean < 1e-9
    assert "1 token added" in " ".join(result.differences)


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_other_tokens_leave_behaviour_out(tmp_path, labelled, memory):
    base = make_model("llama", tmp_path / "base", layers=3, head=True)
    candidate = shutil.copytree(base, tmp_path / "candidate")
    file = candidate / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]
    file.write_text(json.dumps(content))
    result = drift(base, candidate, labelled, memory=memory)
    assert result.behaviour is None and result.basis == "neurons"
    assert any("tokenizers differ" in note for note in result.left_out)
    assert result.decision.statistic > 0.01


def test_replicates_are_stored_and_only_missing_ones_are_computed(base, labelled, monkeypatch):
    settings = {"benign": ["batches", "padding"], "alpha": 0.05}
    first = drift(base, changed(base, 0.5), labelled, replicates=19, **settings)
    computed = []

    def counted(load, conditions, *arguments, **options):
        computed.append(len(conditions))
        return run_replicates(load, conditions, *arguments, **options)

    monkeypatch.setattr("neuroscope.studies.drift.check.run_replicates", counted)
    again = drift(base, changed(base, 0.5, name="again"), labelled, replicates=19, **settings)
    assert computed == [] and again.decision == first.decision
    assert again.rewordings == first.rewordings
    more = drift(base, changed(base, 0.5, name="more"), labelled, replicates=22, **settings)
    assert computed == [3] and more.decision.replicates == 22


def test_python_gives_the_result_of_the_experiment(base, labelled):
    candidate, settings = changed(base, 0.5), {"replicates": 3, "alpha": 0.25, "resamples": 100}
    result = ns.drift(str(base), str(candidate), ns.read_prompts(str(labelled)), **settings)
    assert result.decision == drift(base, candidate, labelled).decision
    texts = [prompt.text for prompt in ns.read_prompts(str(labelled))]
    unlabelled = ns.drift(str(base), str(candidate), texts, **settings)
    assert unlabelled.decision.statistic == result.decision.statistic
    assert unlabelled.explanation.topics is None
