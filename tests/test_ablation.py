"""Ablation confirms a neuron that a model uses for a topic, and not one that is only correlated."""

import errno
import json
import os
import shutil
from contextlib import closing
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from atlased import WORDS
from models import make_model
from planted_neurons import CORRELATED, GENERAL, USED, planted_model, prompt_row

from flows.cli import app
from neuroscope.errors import ExperimentError, ModelError, NeuroscopeError, StoreError
from neuroscope.extraction.models import load_model
from neuroscope.extraction.silenced_outputs import SilencedOutputs
from neuroscope.extraction.silencing import Replacement
from neuroscope.home import home
from neuroscope.reporting.tracking import Tracker
from neuroscope.sites import Site
from neuroscope.storage.atlas_file import Atlas
from neuroscope.studies.atlas.ablation import ablate
from neuroscope.studies.atlas.ablation_result import ablation_table
from neuroscope.studies.atlas.controls import matched_controls
from neuroscope.studies.atlas.find import open_atlas
from neuroscope.studies.atlas.study import build_atlas
from neuroscope.studies.atlas.topic_prompts import AtlasPrompts
from neuroscope.studies.atlas.verifying import verify

FEW = {"prompts": 20, "controls": 39}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return planted_model(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    """Return the path of an atlas of the model: 100 prompts on each of 4 topics."""
    folder = tmp_path_factory.mktemp("atlas")
    rng = np.random.default_rng(0)
    rows = [prompt_row(rng, topic) | {"topic": topic} for topic in WORDS for _ in range(100)]
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(each) + "\n" for each in rows))
    build_atlas(model, prompts, folder / "atlas.duckdb", pilot=100).close()
    return folder / "atlas.duckdb"


@pytest.fixture
def atlas(path):
    with Atlas.open(path) as opened:
        yield opened


def neuron(unit):
    return f"mlp_act.1.{unit}"


@pytest.mark.parametrize("mode", ["mean", "zero", "range"])
def test_a_neuron_that_is_used_is_confirmed_and_one_that_is_only_correlated_is_not(
    atlas, model, mode
):
    result = ablate(atlas, model, topic="animals", top=2, mode=mode, prompts=40)
    used, correlated, both = result.rows
    assert (used.neuron, correlated.neuron) == (neuron(USED), neuron(CORRELATED))  # AUROC 1
    assert used.verdict == "confirmed" and used.p == 1 / 40 and used.low > 0.1
    assert correlated.verdict == "not confirmed" and abs(correlated.effect) < 0.01
    assert both.verdict == "confirmed" and both.neurons == (used.neuron, correlated.neuron)
    np.testing.assert_allclose(both.on_topic, used.on_topic)
    for row in result.rows:
        assert row.effect == pytest.approx(row.on_topic - row.off_topic - row.control)
        assert row.low < row.effect < row.high
        assert (row.topic, row.prompts, row.measure, row.mode) == ("animals", 40, "loss", mode)
    assert [used.controls, both.controls] == [39, 37]  # no neuron is a control of two sets


def test_a_neuron_that_hurts_every_topic_is_general(atlas, model):
    (row,) = ablate(atlas, model, neuron=neuron(GENERAL), **FEW).rows
    assert row.verdict == "general"
    assert min(row.on_topic, row.off_topic) > 0.1 > abs(row.effect)


def test_the_changes_are_those_of_the_mean_loss_when_the_neuron_is_replaced(atlas, model):
    (row,) = ablate(atlas, model, neuron=neuron(USED), **FEW).rows
    drawn = AtlasPrompts.of(atlas).draw(atlas.check_topic("animals"), 20, 0)
    mean = atlas.moments(1)[0][USED]
    change = SilencedOutputs(model, drawn.prompts).change(
        {Site("mlp_act", 1): Replacement.of([USED], mean)}
    )
    assert row.on_topic == pytest.approx(change[drawn.on].mean())
    assert row.off_topic == pytest.approx(change[~drawn.on].mean())


def test_results_repeat_and_depend_on_the_seed(atlas, model):
    first, again, other = (
        ablate(atlas, model, neuron=neuron(USED), seed=seed, **FEW).rows[0] for seed in (0, 0, 1)
    )
    assert first == again != other
    assert other.verdict == "confirmed"


def test_prompts_are_held_out_and_those_off_the_topic_are_of_all_other_topics(atlas):
    drawn = AtlasPrompts.of(atlas).draw(atlas.check_topic("royals"), 30, 0)
    names = atlas.topics()["name"].tolist()
    rows = atlas.sql("SELECT text, heldout FROM prompt").set_index("text")["heldout"]
    assert rows[drawn.prompts.texts].all() and not rows[drawn.selecting.texts].any()
    for text, member, on in zip(drawn.prompts.texts, drawn.members, drawn.on, strict=True):
        own = {names[index] for index in np.flatnonzero(member)}
        assert own == {name for name in WORDS if set(WORDS[name]) & set(text.split())}
        assert on == (own == {"royals"})
    assert drawn.members[~drawn.on].sum(axis=0).tolist() == [10, 10, 0, 10]
    assert all(set(WORDS["royals"]) & set(text.split()) for text in drawn.selecting.texts)


def test_controls_are_the_nearest_neurons_of_the_layer():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "layer": np.repeat([0, 1], 100),
            "active": rng.random(200),
            "mean": rng.normal(size=200) * np.repeat([1, 100], 100),
            "usable": rng.random(200) < 0.8,
        }
    )
    tested = [7, 150]
    controls = matched_controls(frame, tested, 30, 0)
    values = frame[["active", "mean"]].abs()
    for column, (number, layer) in enumerate(zip(tested, (0, 1), strict=True)):
        own = values[frame["layer"] == layer]
        distance = (((own - own.loc[number]) / own.std(ddof=0)) ** 2).sum(axis=1)
        usable = distance[frame["usable"][own.index] & (own.index != number)]
        assert set(controls[:, column]) == set(usable.nsmallest(30).index)
    together = matched_controls(frame, [7, 8, 150], 60, 0)
    assert len(together) == (frame["usable"][:100].drop([7, 8]).sum()) // 2
    assert len(np.unique(together)) == together.size
    with pytest.raises(ExperimentError, match="layer 0"):
        matched_controls(frame, list(range(5)), 39, 0)


def test_progress_counts_the_sets_of_neurons(atlas, model):
    reports = []
    ablate(
        *(atlas, model),
        **FEW | {"neuron": neuron(USED), "progress": lambda *report: reports.append(report)},
    )
    assert reports == [("ablate", done, 40) for done in range(41)]


def no_passes(model):
    """Make every pass of a model fail."""
    return model.module.register_forward_pre_hook(lambda *arguments: pytest.fail("a pass"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "no neuron or topic"),
        ({"neuron": "mlp_act.1.0", "topic": "animal"}, "did you mean 'animals'"),
        ({"neuron": "mlp_act.1.960"}, "mlp_act.1.960"),
        ({"topic": "animal"}, "'animals'"),
        ({"topic": "animals", "prompts": 9}, "prompts is 9"),
        ({"topic": "animals", "controls": 19}, "controls is 19"),
        ({"topic": "animals", "mode": "median"}, "median"),
        ({"topic": "animals", "top": 30}, "layer"),
    ],
)
def test_wrong_arguments_are_refused_before_a_pass(atlas, model, settings, words):
    hook = no_passes(model)
    try:
        with pytest.raises(NeuroscopeError, match=words):
            ablate(atlas, model, **settings)
    finally:
        hook.remove()


def test_another_model_and_too_few_prompts_are_refused(path, atlas, tmp_path):
    other = str(make_model("llama", tmp_path / "other", head=True))
    for model in (other, load_model(other, head=True)):
        with pytest.raises(ModelError, match="the atlas describes"):
            ablate(atlas, model, topic="animals")
    copy = tmp_path / "atlas.duckdb"
    shutil.copyfile(path, copy)
    with closing(duckdb.connect(str(copy))) as connection:
        connection.execute("UPDATE prompt SET heldout = false WHERE prompt < 95")  # animals
        connection.execute("UPDATE model SET pool = 'max'")
    with Atlas.open(copy) as changed:
        with pytest.raises(ExperimentError, match="'zero'"):
            ablate(changed, topic="animals")
        with pytest.raises(ExperimentError, match="topic 'animals'"):
            ablate(changed, topic="animals", mode="zero")


def test_a_model_that_is_named_is_loaded_with_its_head(atlas):
    (row,) = ablate(atlas, neuron=neuron(CORRELATED), **FEW).rows
    assert row.measure == "loss"


def test_a_neuron_is_tested_on_the_topic_that_is_given(atlas, model):
    topics = atlas.topics()["name"].tolist()
    for topic in topics:
        result = ablate(atlas, model, neuron=neuron(USED), topic=topic, **FEW)
        assert [(row.neuron, row.topic) for row in result.rows] == [(neuron(USED), topic)]
        assert (result.rows[0].verdict == "confirmed") == (topic == "animals")


def test_a_topic_that_is_not_separable_is_noted(atlas, model, tmp_path):
    copy = shutil.copyfile(atlas.path, tmp_path / "changed.duckdb")
    with duckdb.connect(str(copy)) as connection:
        connection.execute("UPDATE topic SET reason = 'length' WHERE name = 'animals'")
    with Atlas.open(copy) as changed:
        result = ablate(changed, model, neuron=neuron(USED), topic="animals", **FEW)
    expected = "The topic 'animals' is not separable from length in these data."
    assert result.notes == (expected,) and expected in ablation_table(result).notes


def test_verdicts_are_recorded_as_the_latest_atlas_of_the_model(atlas, model, caplog):
    result, path = verify(atlas, model, topic="animals", top=2, **FEW)
    assert path.parent == home() / "atlas" / "verified"
    with open_atlas(model.name) as latest:
        assert latest.path != path
        confirmed = latest.neurons("animals", verified=True)
        assert confirmed["neuron"].tolist() == [neuron(USED)]
        assert confirmed["effect"][0] == pytest.approx(result.rows[0].effect)
        assert "ablation" in latest.model()["notes"][-1]
        created = latest.model()["created"]
        again, _ = verify(latest, model, neuron=neuron(GENERAL), record=False, **FEW)
    assert again.rows[0].verdict == "general"
    (run,) = Tracker.open().find_runs("atlas")
    assert run.name.endswith("ablation of animals")
    assert run.params["topics"] == "animals" and neuron(USED) in run.params["neurons"]
    assert (run.params["atlas"], run.params["atlas_created"]) == (str(atlas.path), created)
    with open_atlas() as latest:
        assert latest.neurons(verified=True)["neuron"].tolist() == [neuron(USED)]
    assert not caplog.records


def test_a_copy_under_a_path_is_not_recorded_and_never_overwrites(atlas, model, tmp_path):
    out = tmp_path / "verified.duckdb"
    assert verify(atlas, model, neuron=neuron(GENERAL), out=out, **FEW)[1] == out
    with Atlas.open(out) as verified:
        general = verified.sql("SELECT name FROM neuron WHERE general")["name"].tolist()
    assert general == [neuron(GENERAL)]
    hook = no_passes(model)
    try:
        with pytest.raises(StoreError, match="exists"):
            verify(atlas, model, neuron=neuron(USED), out=out, **FEW)
    finally:
        hook.remove()
    assert not (home() / "mlflow.db").exists()


@pytest.mark.parametrize("name", ["mlp_act.1.00", "mlp_act.01.0", "blocks.1.mlp.hook_post.0"])
def test_every_name_of_a_neuron_that_an_atlas_knows_is_accepted(atlas, model, name):
    (row,) = ablate(atlas, model, neuron=name, mode="zero", **FEW).rows
    assert (row.neuron, row.verdict) == (neuron(USED), "confirmed")


def test_a_copy_that_cannot_be_created_is_refused_before_a_pass(atlas, model, tmp_path):
    (tmp_path / "text").write_text("")
    hook = no_passes(model)
    try:
        for folder in ("text", "text/new"):
            with pytest.raises(StoreError, match=r"cannot write .*Not a directory"):
                verify(atlas, model, neuron=neuron(USED), out=tmp_path / folder / "new.duckdb")
    finally:
        hook.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_effects_are_printed_if_they_cannot_be_stored(path, tmp_path, run_command, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("neuroscope.storage.atlas_verifying._update", full)
    options = ["--prompts", 20, "--atlas", path, "--out", tmp_path / "verified.duckdb"]
    command = ["atlas", "ablate", neuron(USED), *options]
    code, printed = run_command(*command)
    assert code == 71 and "No space left" in printed.err and "test the neurons again" in printed.err
    assert "confirmed" in printed.out and "verified.duckdb" not in printed.out
    code, printed = run_command(*command, "--json")
    document = json.loads(printed.out)
    assert code == 71 and document["atlas"] is None
    assert document["rows"][0]["verdict"] == "confirmed" and not any(tmp_path.iterdir())


def test_a_recorded_ablation_has_a_report(atlas, model, run_command):
    verify(atlas, model, neuron=neuron(USED), **FEW)
    tracker = Tracker.open()
    (run,) = tracker.find_runs("atlas")
    code, printed = run_command("report")
    path = Path(printed.out.strip())
    assert code == 0 and str(path) == tracker.report_location(run.id)
    page = path.read_text(encoding="utf-8")
    assert "1 of 1 neuron confirmed by ablation on &#39;animals&#39;." in page
    assert f'<td class="text">{neuron(USED)}</td>' in page

    path.unlink()
    code, printed = run_command("report", run.id)
    assert code == 69 and "report.html" in printed.err and run.id in printed.err
    assert "choose from what it has: atlas.duckdb, tables" in " ".join(printed.err.split())


def test_a_server_that_does_not_respond_loses_nothing(atlas, model, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    _, path = verify(atlas, model, neuron=neuron(USED), **FEW)
    assert path.exists() and "not recorded" in caplog.text


def test_the_command_prints_effects_and_writes_the_copy(path, tmp_path, capsys, monkeypatch):
    out = tmp_path / "verified.duckdb"
    command = ["neuroscope", "atlas", "ablate", "--topic", "animals", "--top", "2"]
    command += ["--prompts", "20", "--atlas", str(path), "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*command, "--json"])
    app(standalone_mode=False)
    document = json.loads(capsys.readouterr().out)
    verdicts = [row["verdict"] for row in document["rows"]]
    assert verdicts == ["confirmed", "not confirmed", "confirmed"]
    assert document["atlas"] == str(out)
    with Atlas.open(out) as verified:
        assert verified.neurons("animals", verified=True)["neuron"].tolist() == [neuron(USED)]
    out.unlink()
    monkeypatch.setattr("sys.argv", command)
    app(standalone_mode=False)
    printed = capsys.readouterr().out
    assert "all 2 together" in printed and str(out) in printed
