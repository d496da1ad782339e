"""`neuroscope run` from the command to the finished MLflow run, and running its copy again."""

import json
import sys
from pathlib import Path

import pytest
from associated import SETTINGS as ASSOCIATION
from mlflow import MlflowClient
from prefect.testing.utilities import prefect_test_harness
from ruamel.yaml import YAML

from flows import cli
from neuroscope.experiment_files import yaml_text
from neuroscope.reporting.tracking import FLOW_RUN_TAG
from neuroscope.reporting.tracking_server import tracking_uri
from neuroscope.studies.study import STUDIES

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "compare": {
        "note": "why?",
        "prompts": [{"template": "the engineer is a {} .", "fills": ["man", "woman"]}],
    },
    "layers": {
        "prompts": {"file": "prompts.csv", "text_column": "sentence", "label_columns": ["topic"]},
        "probe_prompts": 30,
    },
    "drift": {
        "prompts": {"file": "prompts.csv", "text_column": "sentence", "label_columns": ["topic"]},
        "candidate_dtype": "bfloat16",
        "resamples": 100,
    },
    "atlas": {
        "prompts": {"file": "prompts.csv", "text_column": "sentence", "label_columns": ["topic"]},
        "least_prompts": 10,
    },
    "association": {
        key: value for key, value in ASSOCIATION.items() if key not in ("kind", "name")
    },
}
"""Kind of study -> settings of a small experiment."""


@pytest.fixture(scope="module", autouse=True)
def prefect():
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def run(monkeypatch, capsys, database):
    """Return a function that runs an experiment file by the command line and returns its run."""

    def from_file(path):
        monkeypatch.setattr(sys, "argv", ["neuroscope", "run", str(path), "--json"])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        printed = capsys.readouterr()
        assert raised.value.code == 0, printed.err
        (entry,) = json.loads(printed.out, parse_constant=pytest.fail)["runs"]  # no NaN
        return entry

    return from_file


@pytest.fixture
def experiment(tmp_path, family_folder):
    """Return a function that writes an experiment for a tiny model and its prompt file."""

    def write(kind):
        words = {"animals": ["cat", "dog"], "people": ["man", "woman"]}
        rows = [
            f'"the {word} {verb} {location} .",{topic},{number}\n'
            for topic, topic_words in words.items()
            for number, (word, verb, location) in enumerate(
                (word, verb, location)
                for word in topic_words
                for verb in ("sits", "walks", "runs")
                for location in ("in the house", "on the mat")
            )
        ]
        (tmp_path / "prompts.csv").write_text("sentence,topic,other\n" + "".join(rows))
        models = [str(family_folder("bert"))] * (2 if kind == "drift" else 1)
        data = {"kind": kind, "name": "small", "models": models, **SETTINGS[kind]}
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml_text(data))
        return path

    return write


def test_the_demo_of_the_readme_is_recorded_with_report_and_charts(run):
    entry = run(ROOT / "experiments" / "engineer.yaml")
    assert len(entry["rows"]) == 6 * 6 * 3  # layers, pairs, views
    recorded = MlflowClient(tracking_uri=tracking_uri()).get_run(entry["run_id"])
    assert recorded.info.status == "FINISHED" and recorded.info.run_name.startswith("minilm ")
    cosines = [row["cosine"] for row in entry["rows"] if row["view"] == "aligned"]
    history = MlflowClient(tracking_uri=tracking_uri()).get_metric_history(
        entry["run_id"], "aligned/cosine"
    )
    assert sum(point.value for point in history) / 6 == pytest.approx(sum(cosines) / 36)
    assert Path(entry["report"]).read_text(encoding="utf-8").count("<img") >= 2


@pytest.mark.parametrize("kind", STUDIES)
def test_a_run_is_recorded_and_its_copy_repeats_it(kind, run, experiment, tmp_path):
    entry = run(experiment(kind))
    client = MlflowClient(tracking_uri=tracking_uri())
    recorded = client.get_run(entry["run_id"])
    assert recorded.info.status == "FINISHED"
    assert recorded.data.tags[FLOW_RUN_TAG] and recorded.data.tags["neuroscope.kind"] == kind
    assert entry["run_id"] in entry["address"] and entry["report"].endswith("report.html")

    copy = tmp_path / "copy"
    copy.mkdir()
    client.download_artifacts(entry["run_id"], "", str(copy))
    document = YAML(typ="safe").load((copy / "experiment.yaml").read_text(encoding="utf-8"))
    assert document["schema"] == 1 and len(document["fingerprints"]["prompts"]) == 64
    assert document.get("label") == {"layers": "topic", "drift": "topic"}.get(
        kind
    )  # chosen automatically
    (tmp_path / "prompts.csv").unlink()  # the copy does not need it
    again = run(copy / "experiment.yaml")
    rows = "layers" if kind == "drift" else "rows"
    assert again[rows] == entry[rows] and "have changed" not in " ".join(again["notes"])
    assert again["run_id"] != entry["run_id"]


def test_changed_prompts_are_noted_when_a_copy_is_run(run, experiment, tmp_path):
    entry = run(experiment("layers"))
    copy = tmp_path / "copy"
    copy.mkdir()
    MlflowClient(tracking_uri=tracking_uri()).download_artifacts(entry["run_id"], "", str(copy))
    prompts = copy / "prompts.jsonl"
    prompts.write_text(prompts.read_text().replace("the cat sits", "the black cat sits"))
    (note,) = run(copy / "experiment.yaml")["notes"]
    assert "prompts" in note
