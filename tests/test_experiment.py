"""Experiments read from YAML."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from neuroscope.errors import ExperimentError
from neuroscope.experiment import (
    Experiment,
    PromptGroup,
    PublishedFigures,
    PublishedPair,
    load_experiment,
    make_experiment,
)
from neuroscope.sites import Layers

EXPERIMENTS = Path(__file__).parents[1] / "experiments"

SMALL = """\
kind: compare
name: small
models: [minilm]
prompts:
  - texts: [a cat, a dog]
"""

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
    """Loads an experiment from the text of its file."""

    def from_text(text):
        path = tmp_path / "e.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_experiment(path)

    return from_text


@pytest.fixture
def refusal(load, tmp_path):
    """Message with which the text of an experiment's file is refused, without the folder."""

    def of(text):
        with pytest.raises(ExperimentError) as refused:
            load(text)
        return str(refused.value).replace(f"{tmp_path}/", "")

    return of


def test_the_least_experiment_and_its_defaults(load):
    experiment = load(SMALL)
    assert experiment.models == ["minilm"]
    assert experiment.prompt_set().texts == ["a cat", "a dog"]
    assert experiment.pairs() == [("a cat", "a dog")]
    assert (experiment.component, experiment.layer_choice) == ("resid_post", Layers.parse("all"))
    defaults = (experiment.device, experiment.dtype, experiment.attention, experiment.plot_layers)
    assert defaults == ("auto", "float32", "sdpa", "middle")
    assert (experiment.truncate, experiment.published) == (False, None)


def test_pairs_are_made_within_a_group_each_once():
    groups = [
        {"texts": ["a", "b", "c"]},
        {"template": "{}", "fills": ["c", "d"]},
        {"texts": ["a", "b"]},
    ]
    experiment = make_experiment({**yaml.safe_load(SMALL), "prompts": groups})
    assert experiment.prompt_set().texts == ["a", "b", "c", "d"]
    assert experiment.pairs() == [("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")]


@pytest.mark.parametrize(
    ("lines", "meant"),
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
def test_layers_are_chosen_in_every_spelling(load, lines, meant):
    experiment = load(f"{SMALL}{lines}\n")
    assert experiment.layer_choice.resolve(6) == meant
    assert experiment.component == "resid_post"


def test_an_experiment_reads_back_what_it_writes(load):
    for text in (SMALL, FULL):
        experiment = load(text)
        written = yaml.safe_dump(experiment.model_dump(mode="json", exclude_defaults=True))
        assert load(written) == experiment


def test_an_experiment_does_not_change(load):
    with pytest.raises(ValidationError, match="frozen"):
        load(SMALL).truncate = True


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "known"),
    [
        ("name:", "nmae: x\nname:", 2, "nmae", "kind, name, note, models, site, layers, prompts"),
        ("    fills:", "    filsl: [x]\n    fills:", 6, "filsl", "texts, template, fills"),
        ("  source:", "  sources: x\n  source:", 10, "sources", "model, site, source, pairs"),
        ("mse: 1.5", "mse: 1.5, msee: 1", 12, "msee", "a, b, cosine, mse"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_known_ones(
    refusal, old, new, line, key, known
):
    message = refusal(FULL.replace(old, new))
    assert message.startswith(f"e.yaml, line {line}: unknown key '{key}' (did you mean '")
    assert f"keys here are {known}" in message


def test_every_fault_is_told_at_once_each_with_its_line(refusal):
    told = refusal(SMALL.replace("[minilm]", "minilm") + "sites: x\ntruncate: many\n").splitlines()
    assert [line.split(":")[0] for line in told] == [f"e.yaml, line {n}" for n in (3, 7, 6)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: compare", "kind: drift", "line 1: kind: Input should be 'compare', found 'drift'"),
        ("name: full", "name: a b", "line 2: name: .*found 'a b'"),
        ("[minilm]", "minilm", "line 3: models: .*valid list, found 'minilm'"),
        ("[minilm]", "[]", "line 3: models: .*at least 1 item"),
        ("[minilm]", "[1]", r"line 3: models\.0: .*valid string, found 1"),
        ("[minilm]", "[m, m]", "a model is named twice: leave one out"),
        (
            "name: full",
            "name: full\ntruncate: many",
            "line 3: truncate: .*valid boolean.*found 'many'",
        ),
        ("name: full", "name: full\ntruncate: 7", "line 3: truncate: .*boolean.*found 7"),
        ("name: full", "name: full\ndtype: fp32", "line 3: dtype: .*'bfloat16'.*found 'fp32'"),
        ("name: full", "name: full\nattention: x", "line 3: attention: .*'eager', found 'x'"),
        ("name: full", "name: full\nlayers: top", "line 3: cannot read layers 'top': write 'all'"),
        ("name: full", "name: full\nlayers: 1.5", "line 3: cannot read layers '1.5'"),
        ("name: full", "name: full\nplot_layers: top", "line 3: cannot read layers 'top'"),
        ("name: full", "name: full\nsite: mlp", "line 3: unknown site 'mlp'.* Sites are resid_pre"),
        (
            "name: full",
            "name: full\nsite: mlp_act.2\nlayers: 3",
            "site 'mlp_act.2' names its layer, and layers '3' .*: leave one of the two out",
        ),
        ("fills: [cat, dog]", "fills: cat", r"line 6: prompts\.0\.fills: .*list, found 'cat'"),
        ("cosine: 0.5", "cosine: high", r"line 12: published\.pairs\.0\.cosine: .*found 'high'"),
        ("  source: a paper\n", "", r"line 7: key 'published\.source' is missing"),
        ("name: full", "name: full\n1: x", "Keys should be strings, found 1"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line_and_what_was_found(refusal, old, new, message):
    assert old in FULL
    assert re.search(message, refusal(FULL.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("texts: [a cat]", "one prompt ('a cat') where at least two are needed to compare: add"),
        ("{template: 'a {}', fills: [cat]}", "one prompt ('a cat') where at least two are needed"),
        (
            "texts: [a cat, '  ']",
            "prompt '1' (number 2) is blank",
        ),
        ("texts: [a, b, a]", "prompt 'a' stands there twice: leave one out"),
        ("{template: 'a {}', fills: [x, x]}", "prompt 'a x' stands there twice: leave one out"),
        ("{template: 'a {}', fills: [x, '']}", "a fill of template 'a {}' is blank"),
        ("template: a {}", "template 'a {}' has no fills"),
        ("{template: a cat, fills: [x, y]}", "must contain '{}' exactly once"),
        ("texts: []", "give either 'texts', or a 'template' with 'fills'"),
        ("{texts: [a, b], template: 'a {}'}", "give either 'texts', or a 'template' with 'fills'"),
        ("{texts: [a, b], fills: [x, y]}", "'fills' need a 'template' that holds {}"),
        ("[a, b]", "prompts.0: Input should be a valid dictionary"),
        ("texts: [a, 1]", "prompts.0.texts.1: Input should be a valid string, found 1"),
    ],
)
def test_prompts_that_cannot_be_compared_are_refused_with_the_line(refusal, group, message):
    told = refusal(SMALL.replace("texts: [a cat, a dog]", group))
    assert told.startswith("e.yaml, line 5: ")
    assert message in told


def test_an_experiment_needs_prompts(refusal):
    told = refusal(SMALL.split("prompts:")[0] + "prompts: []\n")
    assert told.startswith("e.yaml, line 4: no prompts: give at least two 'texts', or a 'template'")
    assert refusal("kind: compare\n").splitlines() == [
        f"e.yaml, line 1: key '{key}' is missing" for key in ("name", "models", "prompts")
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{SMALL}note: [a, b\n", 7),
        (f"{SMALL}note: 'a\n", 7),
        (f"{SMALL}\ttruncate: true\n", 6),
        (f"{SMALL}  truncate: true\n", 6),
        (f"{SMALL}note: a: b\n", 6),
        (f"{SMALL}---\n{SMALL}", 6),
        (f"{SMALL}note: !!python/name:os.system\n", 6),
    ],
)
def test_what_is_not_yaml_is_refused_with_the_file_and_the_line(refusal, text, line):
    assert refusal(text).startswith(f"e.yaml, line {line}: not YAML: ")


def test_a_date_that_does_not_exist_is_refused_as_other_faults_of_yaml(refusal):
    assert refusal(f"{SMALL}note: 2025-13-45\n").startswith("e.yaml")


def test_a_key_that_stands_there_twice_is_refused(refusal):
    told = refusal(f"{SMALL}models: [bert-base-uncased]\n")
    assert told.startswith("e.yaml, line 6: ") and "'models'" in told and "twice" in told


@pytest.mark.parametrize("text", ["", "# nothing\n", "- kind: compare\n", "compare\n", "3\n"])
def test_a_file_without_keys_is_refused_with_an_example(refusal, text):
    assert refusal(text) == "e.yaml: expected keys such as 'kind: compare' and 'models: […]'"


def test_a_file_that_cannot_be_read_is_refused(refusal, tmp_path):
    with pytest.raises(ExperimentError, match=r"cannot read experiment '.*none\.yaml': No such"):
        load_experiment(tmp_path / "none.yaml")
    with pytest.raises(ExperimentError, match=r"cannot read experiment '.*': Is a directory"):
        load_experiment(tmp_path)
    assert refusal("note: café".encode("latin-1")) == "e.yaml is not UTF-8 text: save it as UTF-8"


@pytest.mark.parametrize("site", ["rubbish", "resid_post"])
def test_a_reference_needs_a_site_with_its_layer(refusal, site):
    told = refusal(FULL.replace("resid_post.5", site))
    assert told.startswith("e.yaml, line 9: ") and f"'{site}'" in told


def test_plain_values_are_checked_as_a_file_is():
    with pytest.raises(ExperimentError) as refused:
        make_experiment({**yaml.safe_load(SMALL), "trunkate": 1})
    assert str(refused.value).startswith(
        "unknown key 'trunkate' (did you mean 'truncate'?); keys here are"
    )


def test_the_shipped_engineer_experiment_holds_the_published_figures():
    experiment = load_experiment(EXPERIMENTS / "engineer.yaml")
    a = "The engineer is a {}.".format
    figures = {
        (a("man"), a("woman")): (0.9480, 0.0540),
        (a("man"), a("transgender")): (0.7946, 0.2156),
        (a("woman"), a("transgender")): (0.8441, 0.1638),
        (a("boy"), a("girl")): (0.9675, 0.0340),
        (a("boy"), a("transgender")): (0.7999, 0.2110),
        (a("girl"), a("transgender")): (0.8187, 0.1910),
    }
    assert experiment.pairs() == list(figures)
    assert len(experiment.prompt_set()) == 5
    published = experiment.published
    assert (published.model, published.site) == ("bert-base-uncased", "resid_post.5")
    assert {(one.a, one.b): (one.cosine, one.mse) for one in published.pairs} == figures


def test_the_shipped_cat_and_dog_experiment_draws_the_third_layer():
    experiment = load_experiment(EXPERIMENTS / "cat_dog.yaml")
    assert experiment.pairs() == [("The cat is on the mat", "The dog is on the mat")]
    assert experiment.plot_layers == "2"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_loads_and_is_named_as_its_file(path):
    assert load_experiment(path).name == path.stem


def test_every_key_is_described():
    parts = (Experiment, PromptGroup, PublishedFigures, PublishedPair)
    nested = {
        found
        for part in parts
        for field in part.model_fields.values()
        for found in (field.annotation, *getattr(field.annotation, "__args__", ()))
        if isinstance(found, type) and issubclass(found, BaseModel)
    }
    assert nested == set(parts) - {Experiment}
    bare = [
        f"{part.__name__}.{name}"
        for part in parts
        for name, field in part.model_fields.items()
        if not (field.description or "").strip()
    ]
    assert bare == []
