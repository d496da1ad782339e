"""The commands `neuroscope monitor` and `neuroscope drift history`, with a real registry."""

from pathlib import Path

import pytest

from neuroscope.reporting.tracking import Tracker


@pytest.fixture
def without_figures():
    """Draw the figures, unlike most tests of commands."""


SETTINGS = ["--alpha", 0.4, "--margin", 0.001]


def test_a_monitor_reports_its_checks_and_the_history_lists_them(
    news, labelled, run_command, run_json
):
    monitor = ["monitor", "news", "--prompts", labelled, *SETTINGS]
    code, printed = run_command(*monitor)
    assert code == 1, printed.err
    assert "version 2 compatible, version 3 drifted" in printed.out
    again = run_json(*monitor)
    assert (again["checked"], again["looks"], again["base"]) == ([], 2, 1)
    assert [check["version"] for check in again["known"]] == [2, 3]
    (history,) = run_json("drift", "history", "news")["histories"]
    assert history["rows"] == again["known"]
    code, printed = run_command("drift", "history", "news")
    assert code == 0 and "drifted" in printed.out and "0.4" in printed.out
    (line,) = [line for line in printed.out.splitlines() if line.startswith("Figure: ")]
    assert Path(line.removeprefix("Figure: ")).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["monitor", "nws", "--prompts", "PROMPTS"], "no model 'nws'"),
        (["monitor", "news", "--prompts", "PROMPTS", "--alias", "best"], "no alias 'best'"),
        (["monitor", "models:/news", "--prompts", "PROMPTS"], "without models:/"),
        (["monitor", "news", "--prompts", "missing.csv"], "missing.csv"),
        (["monitor", "news", "--prompts", "PROMPTS", "--label", "x"], "'x'"),
        (["monitor", "news", "--prompts", "PROMPTS", "--alpha", "2"], "alpha"),
        (["drift", "history", "news"], "no check of a registered model 'news'"),
    ],
)
def test_bad_input_is_refused_before_a_run_is_opened(arguments, words, news, labelled, run_command):
    code, printed = run_command(*[labelled if word == "PROMPTS" else word for word in arguments])
    assert code == 2 and words in printed.err and "Traceback" not in printed.err
    assert Tracker.connect().find_runs("drift", status=["RUNNING", "FAILED", "FINISHED"]) == []
    assert not news.client.get_registered_model("news").tags


def test_a_registry_that_is_down_is_named(labelled, run_command, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for arguments in (
        ["monitor", "news", "--prompts", labelled],
        ["drift", "history", "news"],
    ):
        code, printed = run_command(*arguments)
        assert code == 69 and "127.0.0.1:9" in printed.err and "Traceback" not in printed.err
