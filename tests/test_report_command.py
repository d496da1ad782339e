"""The command that finds and opens reports."""

import os
import subprocess
import sys

import pytest

from neuroscope.reporting.tracking import Tracker


@pytest.fixture
def recorded(database, tmp_path):
    """Record three runs with reports, and one that failed; return their ids by name."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "report.html").write_text("report")
    tracker, ids = Tracker.open(), {}
    for kind, name, experiment in (
        ("compare", "minilm animals", "animals"),
        ("layers", "minilm topics", "topics"),
        ("compare", "minilm again", "animals"),
    ):
        with tracker.run(kind, name, tags={"neuroscope.experiment": experiment}) as run:
            run.log_folder(tmp_path / "files")
        ids[name] = run.id
    with pytest.raises(ZeroDivisionError), tracker.run("compare", "minilm failed"):
        _ = 1 / 0
    return ids


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "minilm again"),
        (["--kind", "layers"], "minilm topics"),
        (["minilm animals"], "minilm animals"),
        (["animals"], "minilm again"),
        (["topics", "--kind", "layers"], "minilm topics"),
    ],
)
def test_the_report_of_the_newest_run_is_found(recorded, run_command, home, arguments, expected):
    code, printed = run_command("report", *arguments)
    path = printed.out.strip()
    assert code == 0 and recorded[expected] in path
    assert path.startswith(str(home / "artifacts")) and os.path.isfile(path)


def test_a_report_is_found_by_the_id_of_its_run(recorded, run_json):
    document = run_json("report", recorded["minilm animals"])
    assert document["run_id"] == recorded["minilm animals"] and document["kind"] == "compare"
    assert document["report"].endswith("report.html") and document["run_id"] in document["address"]


@pytest.mark.parametrize(
    "arguments", [["minilm failed"], ["nothing"], ["topics", "--kind", "compare"]]
)
def test_a_run_without_a_report_is_refused(recorded, run_command, arguments):
    code, printed = run_command("report", *arguments)
    assert code == 2 and f"'{arguments[0]}'" in printed.err and "minilm again" in printed.err


def test_an_unknown_kind_is_refused(run_command):
    code, printed = run_command("report", "--kind", "compar")
    assert code == 2 and "compare, layers, drift, atlas or association" in printed.err


def test_no_database_is_created_to_find_a_report(run_command, home):
    code, printed = run_command("report")
    assert code == 2 and str(home) in printed.err and not home.exists()


def test_a_database_without_runs_has_no_report(run_command, database):
    code, printed = run_command("report")
    assert code == 2 and "neuroscope compare" in printed.err


def test_a_report_opens_in_the_browser_of_the_user(recorded, tmp_path):
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho $1 > {tmp_path}/opened\n")
    browser.chmod(0o755)
    command = [sys.executable, "-m", "flows.cli", "report", "--open"]
    environment = os.environ | {"BROWSER": f"{browser} %s"}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    opened = (tmp_path / "opened").read_text()
    assert opened.startswith("file:///") and recorded["minilm again"] in opened
