"""Experiments read from YAML."""

import re
from copy import copy

import pytest
from pydantic import ValidationError

from neuroscope.errors import ExperimentError, PromptError
from neuroscope.experiment import key_spelling, make_experiment
from neuroscope.experiment_files import yaml_text
from neuroscope.sites import resolve_sites
from neuroscope.studies.compare.experiment import CompareExperiment
from neuroscope.studies.study import load_experiment

SMALL = """\
kind: compare
name: small
models: [minilm]
prompts:
  - texts: [a cat, a dog]
"""

PLAIN = {
    "kind": "compare",
    "name": "small",
    "models": ["minilm"],
    "prompts": [{"texts": ["a cat", "a dog"]}],
}

FULL = """\
kind: compare
name: full
models: [minilm]
prompts:
  - template: A {}.
    fills: [cat, dog]
published:
  model: minilm
  site: resid_post.5
  source: a paper
  pairs:
    - {a: A cat., b: A dog., cosine: 0.5, mse: 1.5}
"""


@pytest.fixture
def load(tmp_path):
    """Return a function that loads an experiment from the text of its file."""

    def from_text(text):
        path = tmp_path / "e.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_experiment(path)

    return from_text


@pytest.fixture
def refusal(load, tmp_path):
    """Return a function that gives the error message for a file's text, without the folder."""

    def message(text):
        with pytest.raises(ExperimentError) as raised:
            load(text)
        return str(raised.value).replace(f"{tmp_path}/", "")

    return message


def test_a_minimal_experiment_has_the_defaults(load):
    experiment = load(SMALL)
    assert experiment.models == ["minilm"]
    assert experiment.prompt_set.texts == ["a cat", "a dog"]
    assert experiment.pairs() == [("a cat", "a dog")]
    assert (experiment.component, experiment.layers) == ("resid_post", "all")
    defaults = (experiment.device, experiment.dtype, experiment.attention, experiment.plot_layers)
    assert defaults == ("auto", "float32", "sdpa", "middle")
    assert (experiment.truncate, experiment.published) == (False, None)


def test_pairs_are_formed_within_a_group_once_each():
    groups = [
        {"texts": ["a", "b", "c"]},
        {"template": "{}", "fills": ["c", "d"]},
        {"texts": ["a", "b"]},
    ]
    experiment = make_experiment(CompareExperiment, PLAIN | {"prompts": groups})
    assert experiment.prompt_set.texts == ["a", "b", "c", "d"]
    assert experiment.pairs() == [("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")]


@pytest.mark.parametrize(
    ("line", "layers"),
    [
        ("layers: all", tuple(range(6))),
        ("layers: 3", (3,)),
        ("layers: 0-2", (0, 1, 2)),
        ("layers: 2,4", (2, 4)),
        ("layers: [2, 4]", (2, 4)),
        ("layers: -1", (5,)),
        ("site: resid_post.2", (2,)),
        ("site: blocks.2.hook_resid_post", (2,)),
    ],
)
def test_layers_are_chosen_in_every_spelling(load, line, layers):
    experiment = load(f"{SMALL}{line}\n")
    sites = resolve_sites(experiment.site, experiment.layers, 6)
    assert tuple(site.layer for site in sites) == layers
    assert experiment.component == "resid_post"


@pytest.mark.parametrize("text", [SMALL, FULL])
def test_an_experiment_is_read_back_as_written(load, text):
    experiment = load(text)
    written = yaml_text(experiment.document())
    assert load(written) == experiment
    keys = {field.alias or name for name, field in CompareExperiment.model_fields.items()}
    assert set(experiment.document()) == keys
    assert written.startswith("schema: 1\nkind: compare\n")


def test_an_experiment_is_immutable(load):
    with pytest.raises(ValidationError, match="frozen"):
        load(SMALL).truncate = True


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "similar", "known"),
    [
        ("name:", "nmae: x\nname:", 2, "nmae", "name", "schema, kind, name, note, device, dtype"),
        (
            "    fills:",
            "    filsl: [x]\n    fills:",
            6,
            "filsl",
            "fills",
            "texts, template, fills, file, text_column, label_columns",
        ),
        (
            "  source:",
            "  sources: x\n  source:",
            10,
            "sources",
            "source",
            "model, site, source, pairs",
        ),
        ("mse: 1.5", "mse: 1.5, msee: 1", 12, "msee", "mse", "a, b, cosine, mse"),
    ],
)
def test_an_unknown_key_is_reported_with_its_line_and_the_known_keys(
    refusal, old, new, line, key, similar, known
):
    message = refusal(FULL.replace(old, new))
    assert message.startswith(f"e.yaml, line {line}: ")
    assert f"'{key}'" in message and f"'{similar}'" in message and known in message


def test_all_faults_are_reported_together_with_their_lines(refusal):
    lines = refusal(SMALL.replace("[minilm]", "minilm") + "sites: x\ntruncate: many\n").splitlines()
    assert {line.split(":")[0] for line in lines} == {f"e.yaml, line {n}" for n in (3, 6, 7)}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: compare", "kind: compar", "line 1: .*'compar' .*'compare'"),
        ("kind: compare", "kind: [compare]", "line 1: .*kind"),
        ("kind: compare\n", "", "'kind' .*compare"),
        ("name: full", "name: full\nschema: 2", r"line 3: .*\b2\b.*\b1\b"),
        ("name: full", "name: full\nschema: 0", r"line 3: 'schema': .*\b1\b"),
        ("name: full", "name: a b", "line 2: .*'a b'.*name: a-b"),
        ("[minilm]", "minilm", r"line 3: 'models': .*'minilm'.*\[minilm\]"),
        ("[minilm]", "[]", r"line 3: 'models': .*\b1\b"),
        ("[minilm]", "[1]", r"line 3: item 1 of 'models': .*\b1\b.*quote"),
        ("[minilm]", "[m, m]", "line 3: .*'m'"),
        (
            "name: full",
            "name: full\ntruncate: many",
            "line 3: 'truncate': .*'many'",
        ),
        ("name: full", "name: full\ntruncate: 7", r"line 3: 'truncate': .*\b7\b"),
        ("name: full", "name: full\ndtype: fp32", "line 3: .*'fp32'.*bfloat16"),
        ("name: full", "name: full\nattention: x", "line 3: .*'x'.*eager"),
        ("name: full", "name: full\nlayers: top", "line 3: .*'top'"),
        ("name: full", "name: full\nlayers: 1.5", r"line 3: .*'1\.5'"),
        ("name: full", "name: full\nplot_layers: top", "line 3: .*'top'"),
        ("name: full", "name: full\nsite: mlp", "line 3: .*'mlp'"),
        (
            "name: full",
            "name: full\nsite: mlp_act.2\nlayers: 3",
            r"'mlp_act\.2' .*'3'",
        ),
        ("fills: [cat, dog]", "fills: cat", r"line 6: 'fills': .*'cat'.*\[cat\]"),
        ("cosine: 0.5", "cosine: high", "line 12: 'cosine': .*'high'"),
        ("  source: a paper\n", "", "line 7: .*'source'"),
        ("name: full", "name: full\n1: x", "line 3: .*1"),
        ("name: full", "name: full\nnote: 2025-01-02", "line 3: 'note': .*2025-01-02.*quote"),
        ("name: full", "name: full\nnote: true", "line 3: 'note': .*true.*quote"),
        ("name: full", "name: full\nlayers:", "line 3: 'layers': .*nothing"),
        ("name: full", "name: full\nsite: [resid_post]", "line 3: 'site': .*list"),
        ("kind: compare", "kind: layers\nseed: -1", r"line 2: 'seed': .*\b0\b.*-1"),
        ("kind: compare", "kind: layers\nprobe_prompts: 8.5", r"line 2: 'probe_prompts': .*8\.5"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line_and_the_value(refusal, old, new, message):
    assert old in FULL
    assert re.search(message, refusal(FULL.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("group", "data"),
    [
        ("texts: [a cat]", "'a cat'"),
        ("{template: 'a {}', fills: [cat]}", "'a cat'"),
        ("texts: [a cat, '  ']", "number 2"),
        ("texts: [a, b, a]", "'a'"),
        ("{template: 'a {}', fills: [x, x]}", "'a x'"),
        ("{template: 'a {}', fills: [x, '']}", "'a {}'"),
        ("template: a {}", "'a {}'"),
        ("{template: a cat, fills: [x, y]}", "'a cat'"),
        ("texts: []", "template: "),
        ("{texts: [a, b], template: 'a {}'}", "listed and made from a template"),
        ("{texts: [a, b], file: x.csv}", "listed and in a file"),
        ("{texts: [a, b], fills: [x, y]}", "(template: "),
        ("{texts: [a, b], label_columns: [topic]}", "(file: "),
        ("{texts: [a, b], text_column: question}", "(file: "),
        ("[a, b]", "item 1 of 'prompts': "),
        ("texts: [a, 1]", "item 2 of 'texts': "),
    ],
)
def test_prompts_that_cannot_be_compared_are_refused_with_the_line(refusal, group, data):
    message = refusal(SMALL.replace("texts: [a cat, a dog]", group))
    assert message.startswith("e.yaml, line 5: ") and data in message


def test_an_experiment_needs_prompts(refusal):
    message = refusal(SMALL.split("prompts:")[0] + "prompts: []\n")
    assert message.startswith("e.yaml, line 4: ") and "prompts" in message
    lines = refusal("kind: compare\n").splitlines()
    for line, key in zip(lines, ("name", "models", "prompts"), strict=True):
        assert line.startswith("e.yaml, line 1: ") and f"'{key}'" in line


def test_booleans_of_yaml_1_1_are_read_as_text(load):
    group = "{template: 'say {}', fills: [yes, no, on, off]}"
    experiment = load(SMALL.replace("texts: [a cat, a dog]", group))
    assert experiment.prompt_set.texts == ["say yes", "say no", "say on", "say off"]


def test_a_prompt_file_is_relative_to_the_folder_of_the_experiment(load, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "p.csv").write_text("question,topic\na cat,animals\na dog,animals\n")
    monkeypatch.chdir("/")
    group = "{file: data/p.csv, text_column: question, label_columns: [topic]}"
    experiment = load(SMALL.replace("texts: [a cat, a dog]", group))
    (source,) = experiment.prompt_sources()
    assert source.file == str(tmp_path / "data" / "p.csv")
    assert [prompt.labels for prompt in source.prompts()] == [{"topic": "animals"}] * 2
    assert experiment.pairs() == [("a cat", "a dog")]


@pytest.mark.parametrize(
    ("content", "error", "data"),
    [
        (None, PromptError, "p.txt"),
        ("a cat\n", ExperimentError, "'a cat'"),
        ("a cat\na cat\n", ExperimentError, "'a cat'"),
        ("\n".join(f"prompt {number}" for number in range(201)), ExperimentError, "200"),
    ],
)
def test_a_file_that_cannot_be_compared_is_refused(load, tmp_path, content, error, data):
    if content is not None:
        (tmp_path / "p.txt").write_text(content)
    experiment = load(SMALL.replace("texts: [a cat, a dog]", "file: p.txt"))
    with pytest.raises(error) as raised:
        experiment.pairs()
    assert data in str(raised.value) and str(tmp_path / "p.txt") in str(raised.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{SMALL}note: [a, b\n", 7),
        (f"{SMALL}note: 'a\n", 7),
        (f"{SMALL}\ttruncate: true\n", 6),
        (f"{SMALL}  truncate: true\n", 6),
        (f"{SMALL}note: a: b\n", 6),
        (f"{SMALL}---\n{SMALL}", 6),
    ],
)
def test_invalid_yaml_is_refused_with_the_file_and_the_line(refusal, text, line):
    message = refusal(text)
    assert message.startswith(f"e.yaml, line {line}: ") and "YAML" in message


def test_a_yaml_tag_runs_no_code(refusal):
    message = refusal(f"{SMALL}note: !!python/name:os.system\n")
    assert message.startswith("e.yaml, line 6: 'note': ")


def test_a_value_that_contains_itself_is_refused(refusal):
    assert "line 3" in refusal(SMALL.replace("[minilm]", "&a [*a]"))


def test_an_impossible_date_is_refused(refusal):
    assert refusal(f"{SMALL}note: 2025-13-45\n").startswith("e.yaml")


def test_a_key_that_appears_twice_is_refused(refusal):
    message = refusal(f"{SMALL}models: [bert-base-uncased]\n")
    assert message.startswith("e.yaml, line 6: ") and "'models'" in message


@pytest.mark.parametrize("text", ["", "# nothing\n", "- kind: compare\n", "compare\n", "3\n"])
def test_a_file_without_keys_is_refused_with_an_example(refusal, text):
    message = refusal(text)
    assert message.startswith("e.yaml: ") and "'kind: compare'" in message


def test_a_file_that_cannot_be_read_is_refused(refusal, tmp_path):
    with pytest.raises(ExperimentError, match=r"none\.yaml'.*No such"):
        load_experiment(tmp_path / "none.yaml")
    with pytest.raises(ExperimentError, match=f"'{tmp_path}'.*directory"):
        load_experiment(tmp_path)
    message = refusal("note: café".encode("latin-1"))
    assert message.startswith("e.yaml ") and "UTF-8" in message


@pytest.mark.parametrize("site", ["rubbish", "resid_post"])
def test_published_figures_need_a_site_with_its_layer(refusal, site):
    message = refusal(FULL.replace("resid_post.5", site))
    assert message.startswith("e.yaml, line 9: ") and f"'{site}'" in message


def test_python_values_are_checked_like_those_of_a_file():
    with pytest.raises(ExperimentError) as raised:
        make_experiment(CompareExperiment, PLAIN | {"trunkate": 1})
    assert "'trunkate'" in str(raised.value) and "'truncate'" in str(raised.value)


def test_remedies_are_spelled_for_python_and_kept_in_a_copy_of_the_error():
    groups = {"name": "a b", "prompts": [{"fills": ["x"]}]}
    with pytest.raises(ExperimentError) as raised:
        make_experiment(CompareExperiment, PLAIN | groups)
    for error in (raised.value, copy(raised.value)):
        assert "name='a-b'" in str(error) and "template='" in str(error)
        assert "name: a-b" in str(error.on(key_spelling(CompareExperiment)))
