"""Monitoring of a registered model, with a real registry in SQLite."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from neuroscope.errors import ExperimentError, ModelError
from neuroscope.reporting.registered_model import RegisteredModel
from neuroscope.reporting.tracking import Tracker
from neuroscope.stats.decision import least_replicates, spent_alpha
from neuroscope.studies.drift.history import HISTORY, recorded_checks
from neuroscope.studies.drift.monitor import Watch, check_versions
from neuroscope.studies.drift.study import run_drift

SETTINGS = {"alpha": 0.4, "resamples": 100, "benign": ["batches"], "margin": 0.001}


def watch(labelled, **settings):
    return Watch("news", {"file": str(labelled)}, settings=SETTINGS | settings)


def tags_of(register, version):
    tags = register.client.get_model_version("news", str(version)).tags
    return {key.removeprefix("neuroscope.drift."): value for key, value in tags.items()}


def open_runs(tracker):
    return [
        run for kind in ("drift", HISTORY) for run in tracker.find_runs(kind, status=["RUNNING"])
    ]


def test_each_version_is_checked_once_and_tagged(news, labelled):
    tracker, seen = Tracker.open(), []
    report = check_versions(watch(labelled), tracker, on_checked=seen.append)
    verdicts = {check.version: check.verdict for check in report.checked}
    assert verdicts == {2: "compatible", 3: "drifted"} and report.base == 1
    assert seen == list(report.checked)
    for check in report.checked:
        tags = tags_of(news, check.version)
        assert tags["verdict"] == check.verdict and tags["base"] == "1"
        assert float(tags["statistic"]) == pytest.approx(check.statistic, rel=1e-4)
        assert (tags["run_id"], tags["prompts"]) == (check.run_id, report.prompts)
    again = check_versions(watch(labelled), tracker, on_checked=seen.append)
    assert again.checked == () and [check.version for check in again.known] == [2, 3]
    assert len(seen) == 2 and len(tracker.find_runs("drift")) == 2
    assert not open_runs(tracker)
    assert not news.client.get_registered_model("news").tags  # the claim is released


def test_alpha_is_spent_over_the_checks(news, labelled):
    report = check_versions(watch(labelled), Tracker.open())
    assert [check.look for check in report.checked] == [1, 2] and report.looks == 2
    for check in report.checked:
        assert check.alpha == pytest.approx(spent_alpha(0.4, check.look))
    drifted = report.checked[1]
    assert drifted.p_value <= drifted.alpha
    assert drifted.replicates >= least_replicates(drifted.alpha)


def test_a_moved_alias_means_new_pairs_and_a_history_against_the_new_base(news, labelled):
    tracker = Tracker.open()
    first = check_versions(watch(labelled), tracker)
    history = tracker.metrics(first.history_run)["statistic"]
    assert history == {check.version: pytest.approx(check.statistic) for check in first.checked}
    news.client.set_registered_model_alias("news", "champion", "3")
    moved = check_versions(watch(labelled), tracker)
    assert [(check.base, check.version) for check in moved.checked] == [(3, 1), (3, 2)]
    assert tags_of(news, 2)["base"] == "3" and moved.looks == 4
    (run,) = tracker.find_runs(HISTORY)
    assert run.id == moved.history_run
    assert set(tracker.metrics(run.id)["statistic"]) == {1, 2, 3}
    news.client.set_registered_model_alias("news", "champion", "1")
    back = check_versions(watch(labelled), tracker)
    assert back.checked == () and tags_of(news, 2)["base"] == "1"


def test_identical_versions_spend_no_alpha(news, labelled, tmp_path):
    news.point_to(str(shutil.copytree(tmp_path / "base", tmp_path / "copy")), "news")
    news.point_to(str(tmp_path / "base"), "news")
    report = check_versions(watch(labelled), Tracker.open())
    assert [check.verdict for check in report.checked[2:]] == ["identical", "identical"]
    assert [check.look for check in report.checked] == [1, 2, 3, 3]


def test_a_version_that_was_checked_but_not_tagged_is_tagged(news, labelled):
    tracker = Tracker.open()
    check_versions(watch(labelled), tracker)
    news.client.delete_model_version_tag("news", "3", "neuroscope.drift.verdict")
    report = check_versions(watch(labelled), tracker)
    assert report.checked == () and tags_of(news, 3)["verdict"] == "drifted"


def test_a_version_deleted_during_its_check_is_reported(news, labelled, monkeypatch):
    def run_then_delete(*arguments):
        results = run_drift(*arguments)
        if "news/2" in results[0].model:
            news.client.delete_model_version("news", "2")
        return results

    monkeypatch.setattr("neuroscope.studies.drift.monitor.run_drift", run_then_delete)
    report = check_versions(watch(labelled), Tracker.open())
    assert report.deleted == (2,) and tags_of(news, 3)["verdict"] == "drifted"
    assert not open_runs(Tracker.open())


def test_a_version_that_cannot_be_checked_does_not_stop_the_others(news, labelled, tmp_path):
    (tmp_path / "close" / "config.json").unlink()
    report = check_versions(watch(labelled), Tracker.open())
    (failure,) = report.failed
    assert failure.version == 2 and "config.json" in failure.error
    assert [check.version for check in report.checked] == [3] and "verdict" not in tags_of(news, 2)


def test_a_reused_name_does_not_inherit_checks(news, labelled, tmp_path):
    tracker = Tracker.open()
    check_versions(watch(labelled), tracker)
    news.client.delete_registered_model("news")
    for folder in ("base", "far"):
        news.point_to(str(tmp_path / folder), "news")
    news.client.set_registered_model_alias("news", "champion", "1")
    assert [check.version for check in check_versions(watch(labelled), tracker).checked] == [2]


def test_the_description_of_the_history_names_each_verdict_once(news, labelled):
    tracker = Tracker.open()
    for _ in range(2):
        check_versions(watch(labelled), tracker)
        (run,) = tracker.find_runs(HISTORY)
        text = run.tags["mlflow.note.content"]
        assert text == "news: 1 compatible, 1 drifted; version 3 drifted."


def test_a_number_of_replicates_that_a_look_cannot_use_is_an_error(news, labelled):
    with pytest.raises(ExperimentError, match="3 replicates cannot show drift"):
        check_versions(watch(labelled, replicates=3), Tracker.open())


def test_checks_with_another_margin_are_named(news, labelled):
    check_versions(watch(labelled), Tracker.open())
    report = check_versions(watch(labelled, margin=0.01), Tracker.open())
    assert report.outdated == [2, 3] and report.looks == 2 and not report.checked


def test_a_claim_is_released_by_its_holder_only(news, labelled, monkeypatch):
    model, key = RegisteredModel.connect("news"), "neuroscope.drift.monitor.x"
    with model.claimed(key):
        news.client.set_registered_model_tag(
            "news", key, "other 1 2.00 | 2999-01-01T00:00:00+00:00"
        )
    assert key in news.client.get_registered_model("news").tags
    news.client.delete_registered_model_tag("news", key)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("neuroscope.reporting.registered_model.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt), model.claimed(key):
        pass
    assert key not in news.client.get_registered_model("news").tags


def test_two_monitors_at_once_do_the_work_once(news, labelled):
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(check_versions, watch(labelled), Tracker.open()) for _ in range(2)]
        reports = [call.result() for call in calls]
    checked = [check for report in reports for check in report.checked]
    assert sorted(check.version for check in checked) == [2, 3]
    assert len(recorded_checks(Tracker.open(), "news")) == 2


def test_the_claim_of_another_machine_is_respected_until_it_expires(news, labelled):
    model, key = RegisteredModel.connect("news"), "neuroscope.drift.monitor.x"
    for since, holder in (
        ("2999-01-01T00:00:00+00:00", "elsewhere 1 2.00"),
        ("2020-01-01T00:00:00+00:00", ""),
    ):
        news.client.set_registered_model_tag("news", key, f"elsewhere 1 2.00 | {since}")
        with model.claimed(key) as found:
            assert found == holder
    assert key not in news.client.get_registered_model("news").tags


@pytest.mark.parametrize("name", ["models:/news", "news@champion", ""])
def test_a_name_with_an_address_is_refused(name, labelled):
    with pytest.raises(ModelError, match="not the name of a registered model"):
        Watch(name, {"file": str(labelled)})


def test_unknown_models_and_aliases_are_named(news, labelled):
    with pytest.raises(ModelError, match=r"no alias 'best'.*champion"):
        check_versions(Watch("news", {"file": str(labelled)}, alias="best"), Tracker.open())
    with pytest.raises(ModelError, match=r"no model 'nws'.*news"):
        check_versions(Watch("nws", {"file": str(labelled)}), Tracker.open())
