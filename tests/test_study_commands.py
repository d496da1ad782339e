"""What the study commands share: prompts of files, names, what is recorded, and errors."""

import os
import shutil
import socket
import subprocess
import sys

import pytest

from flows.cli.study import kept
from flows.running_stack import recorded_servers
from neuroscope.options import StudyKind, choices
from neuroscope.reporting.tracking import Tracker
from neuroscope.storage.activation_store import store_root
from neuroscope.storage.parts import PROMPTS
from neuroscope.studies.study import STUDIES

TWO = ["the cat sits .", "the dog sits ."]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Return the current folder, which contains files of prompts."""
    (tmp_path / "prompts.txt").write_text("\n".join(TWO))
    rows = "".join(f"{letter},{letter}{letter},x\n" for letter in "abcdefgh")
    (tmp_path / "source.csv").write_text("text,source\n" + rows.replace(",x", ""))
    (tmp_path / "both.csv").write_text("text,source,kind\n" + rows)
    (tmp_path / "questions.tsv").write_text("question\n" + "\n".join([*TWO, "a cat"]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_prompts_of_a_file_are_compared_without_recording(run_json, family_folder, home):
    options = ["--text-column", "question", "--model", family_folder("bert"), "--no-record"]
    (run,) = run_json("compare", "--file", "questions.tsv", *options)["runs"]
    assert (run["run_id"], run["address"], run["report"]) == (None, None, None)
    pairs = {(row["a"], row["b"]) for row in run["rows"]}
    assert pairs == {(TWO[0], TWO[1]), (TWO[0], "a cat"), (TWO[1], "a cat")}
    assert not (home / "mlflow.db").exists()


def test_an_experiment_file_is_run_without_recording(run_json, family_folder, home, folder):
    (folder / "e.yaml").write_text(
        f"kind: compare\nname: e\nmodels: [{family_folder('bert')}]\nprompts:\n"
        "  - file: prompts.txt\n"
    )
    (run,) = run_json("run", "e.yaml", "--no-record")["runs"]
    assert run["run_id"] is None and run["rows"]
    assert not (home / "mlflow.db").exists() and not (home / "prefect").exists()


def test_prompts_are_studied_without_labels(run_json, family_folder):
    options = ["--no-labels", "--no-record", "--model", family_folder("bert")]
    (run,) = run_json("layers", "source.csv", *options)["runs"]
    assert run["rows"] and not run.get("label")


@pytest.mark.parametrize(("name", "expected"), [("mine", "mine"), ("", "prompts")])
def test_a_comparison_of_a_file_has_a_name(run_json, family_folder, database, name, expected):
    options = ["--name", name, "--model", family_folder("bert")]
    (run,) = run_json("compare", "--file", "prompts.txt", *options)["runs"]
    (recorded,) = Tracker.connect().find_runs("compare")
    assert recorded.id == run["run_id"]
    assert recorded.tags["neuroscope.experiment"] == expected


def test_a_running_server_is_named_instead_of_a_command(run_command, family_folder, database):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with recorded_servers({"MLflow": address}):
            code, printed = run_command("compare", *TWO, "--model", family_folder("bert"))
    (recorded,) = Tracker.connect().find_runs("compare")
    assert code == 0 and "neuroscope up" not in printed.out
    assert f"{address}/#/experiments/" in printed.out and recorded.id in printed.out


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["compare"], ["--template", "--file"]),
        (["compare", "--fill", "cat", "--fill", "dog"], ["'cat', 'dog'", "--template"]),
        (["compare", *TWO, "--text-column", "q"], ["--file"]),
        (["compare", *TWO, "--file", "prompts.txt"], ["listed and in a file"]),
        (["compare", *TWO, "--name", "a b"], ["'a b'", "--name a-b"]),
        (["compare", *TWO, "--site", "logits"], ["'logits'", "--site final"]),
        (["compare", *TWO, "--model", "a", "--model", "a"], ["'a'"]),
        (["compare", "prompts.txt", "source.csv"], ["--file prompts.txt"]),
        (["compare", "--file", "both.csv", "--text-column", "x"], ["--text-column text"]),
        (["compare", os.fsdecode(b"\xff"), "a"], [r"'\udcff'", "Unicode"]),
        (["layers", "both.csv"], ["--label kind", "--no-labels"]),
        (["layers", "source.csv"], ["'aa'", "--no-probes", "--no-labels"]),
        (["layers", "both.csv", "--label-column", "kind"], ["'x'", "--no-labels"]),
        (["layers", "both.csv", "--label-column", "no"], ["'no'", "source, kind"]),
        (["layers", "both.csv", "--label-column", "kind", "--no-labels"], ["exclude"]),
        (["layers", "both.csv", "--probe-prompts", "3"], ["--probe-prompts", "8 or more", "3"]),
        (["layers", "both.csv", "--seed", "x"], ["--seed", "number", "'x'"]),
        (
            ["compare", *TWO, "--dtype", "int3"],
            ["--dtype", "float32, bfloat16 or float16", "'int3'"],
        ),
        (["store", "prune", "--older-than", "x"], ["--older-than", "number", "'x'"]),
        (["extract", "questions.tsv"], ["--text-column question"]),
    ],
)
def test_errors_name_the_options_of_the_command(run_command, home, arguments, settings):
    code, printed = run_command(*arguments)
    assert code == 2 and not home.exists()
    assert all(setting in printed.err for setting in settings), printed.err
    for foreign in ("prompts.0", "'texts'", "'fills'", "label_columns", "Input should", "pattern"):
        assert foreign not in printed.err


def test_every_kind_of_study_is_known_to_the_commands():
    assert choices(StudyKind) == tuple(STUDIES)


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("compare --model ", ["minilm"]),
        ("layers --dtype b", ["bfloat16"]),
        ("extract p.txt --site lo", ["logits"]),
        ("report --kind ", list(STUDIES)),
        ("rep", ["report"]),
    ],
)
def test_a_shell_completes_commands_and_values(words, completions):
    line = ["neuroscope", *words.split(" ")]
    variables = {
        "_NEUROSCOPE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
    }
    script = "import sys; sys.argv = ['neuroscope']; from flows.cli import main; main()"
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | variables
    )
    assert process.stdout.split() == completions


@pytest.mark.parametrize("module", ["neuroscope", "flows.cli"])
def test_a_module_is_the_command_line(module):
    command = [sys.executable, "-m", module, "--version"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.startswith("neuroscope ")


def test_nothing_is_extracted_from_a_model_without_a_tokenizer(
    run_command, home, family_folder, tmp_path
):
    folder = shutil.copytree(family_folder("bert"), tmp_path / "half-filled")
    for path in folder.glob("*token*"):
        path.unlink()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the cat sits")
    code, printed = run_command("extract", str(prompts), "--model", str(folder))
    assert code == 2 and "holds no tokenizer" in printed.err
    assert not list(home.rglob("*.parquet"))


def test_an_interrupted_command_says_what_is_kept(database):
    tracker = Tracker.open()
    for _ in range(2):
        with tracker.run("compare", "finished"):
            pass
    with pytest.raises(KeyboardInterrupt), tracker.run("layers", "interrupted"):
        raise KeyboardInterrupt
    assert kept() == "MLflow runs: 2 finished, 1 killed; nothing new was extracted"


def test_an_interrupted_command_says_whether_anything_was_extracted(database):
    folder = store_root() / "key"
    for table, name in ((PROMPTS, "part-00000.parquet"), ("mlp_act.0", ".part-00000.parquet")):
        (folder / table).mkdir(parents=True)
        (folder / table / name).touch()
    assert kept() == "nothing new was extracted"
    part = folder / "mlp_act.0" / "part-00000.parquet"
    part.touch()
    assert kept() == "what was extracted stays in the store"
    os.utime(part, (0, 0))  # from an earlier command
    assert kept() == "nothing new was extracted"
