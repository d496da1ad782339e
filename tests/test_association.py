"""Associations: the experiment, its words, contrasts against direct computation, planted ones."""

import functools
import itertools
import tempfile

import numpy as np
import pytest
import torch
from associated import CONTRASTS, SETTINGS, TEMPLATES, association, planted
from models import make_model
from scipy.stats import false_discovery_control

import neuroscope as ns
from neuroscope.errors import ExperimentError
from neuroscope.extraction.baseline import ensure_baseline, read_baseline
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.extraction.tokenizers import TokenReader
from neuroscope.stats.weat import weat
from neuroscope.studies.association.experiment import association_experiment
from neuroscope.studies.association.study import check, run_association
from neuroscope.studies.association.words import draw_groups, read_lexicon

FEW = {"templates": TEMPLATES[:3]}


def lexicon_of(experiment, model="minilm"):
    reader = TokenReader.of(find_checkpoint(str(model)))
    return read_lexicon(experiment, tokenise(reader, experiment.prompt_set.prompts), "model")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_model("bert", tmp_path_factory.mktemp("bert"), layers=3)


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"templates": ["no gap", *TEMPLATES]}, ("templates", 0)),
        ({"templates": [*TEMPLATES, "{} and {}"]}, ("templates", 8)),
        ({"templates": ["the {role} sits", *TEMPLATES]}, ("templates", 0)),
        ({"templates": [*TEMPLATES, TEMPLATES[0]]}, ("templates", 8)),
        ({"statements": ["the {} is a {group} ."]}, ("statements", 0)),
        ({"roles": ["engineer", "Engineer"]}, ("roles", 1)),
        ({"roles": [" "]}, ("roles", 0)),
        ({"groups": {"men": ["man"], "women": []}}, ("groups", "women")),
        ({"groups": {"men": ["man", "Man"], "women": ["woman"]}}, ("groups", "men", 1)),
        ({"groups": {"men": ["man"], "women": ["Man"]}}, ("groups", "women")),
        ({"groups": {"": ["man"], "women": ["woman"]}}, ("groups",)),
        ({"roles": ["man"], "groups": {"men": ["man"], "women": ["woman"]}}, ("roles",)),
        ({"control_roles": ["cat", "dog", "KING"]}, ("control_roles", 2)),
        ({"control_roles": ["cat", "nurse"]}, ("control_roles", 1)),
        ({"control_words": ["black", "white"]}, ("control_words",)),
        ({"control_words": [*SETTINGS["control_words"], "queen"]}, ("control_words", 9)),
        ({"control_words": ["dog", *SETTINGS["control_words"]]}, ("control_words", 0)),
        ({"roles": ["e" * 61]}, ("roles", 0)),
    ],
)
def test_faults_name_their_key(settings, keys):
    with pytest.raises(ExperimentError) as raised:
        association(**settings)
    (fault,) = raised.value.faults
    assert raised.value.__cause__.errors()[0]["ctx"]["error"].error.keys == keys
    assert fault.problem


@pytest.mark.parametrize(
    "settings",
    [
        {"groups": {"men": ["man", "boy"]}},
        {"control_roles": ["cat"]},
        {"controls": 1},
        {"templates": TEMPLATES[:1]},
        {"roles": []},
    ],
)
def test_too_little_is_refused(settings):
    with pytest.raises(ExperimentError):
        association(**settings)


def test_a_role_has_contrasts_of_groups_that_do_not_contain_it():
    groups = {"man": ["man"], "woman": ["woman"], "child": ["boy", "girl"]}
    experiment = association(roles=["man", "nurse"], groups=groups)
    assert experiment.contrasts == [
        ("nurse", "man", "woman"),
        ("nurse", "man", "child"),
        ("man", "woman", "child"),
        ("nurse", "woman", "child"),
    ]
    assert len(experiment.prompt_set) == len(TEMPLATES) * len(experiment.words)
    assert len(set(experiment.words)) == len(experiment.words)


def test_a_file_of_another_kind_is_refused_with_its_line(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("name: e\nkind: layers\n")
    with pytest.raises(ExperimentError) as raised:
        association_experiment(path)
    assert f"{path}, line 2: " in str(raised.value)


def test_the_gap_and_the_tokens_of_words_are_found():
    words = {"roles": ["engineer", "bartender"], "control_roles": ["visitor", "guest"]}
    lexicon = lexicon_of(association(**words))
    # [CLS] the … is in the house . [SEP]
    assert (lexicon.gaps[0].start, lexicon.gaps[0].after) == (2, 6)
    assert (lexicon.gaps[6].start, lexicon.gaps[6].after) == (6, 2)
    assert lexicon.words["engineer"].texts == ("engineer",)
    assert lexicon.words["bartender"].texts == ("bartender",)
    (pair,) = [
        pair
        for pair in lexicon.pairs(association(**words))
        if pair.a == "man" and pair.b == "woman"
    ]
    assert (pair.tokens_a, pair.tokens_b, pair.jaccard) == (1, 1, 0.0)


def test_controls_have_as_many_tokens_and_the_nearest_rank():
    names = ["visitor", "guest", "taxpayer", "zither", "lutenist"]
    experiment = association(roles=["engineer", "zookeeper"], control_roles=names, controls=2)
    lexicon = lexicon_of(experiment)
    sizes = {word: len(tokens.ids) for word, tokens in lexicon.words.items()}
    assert sizes["engineer"] == 1 and sizes["zookeeper"] > 1
    ranks = {word: lexicon.words[word].rank for word in names if sizes[word] == 1}
    order = sorted(
        ranks,
        key=lambda word: abs(np.log((1 + ranks[word]) / (1 + lexicon.words["engineer"].rank))),
    )
    assert lexicon.controls["engineer"] == tuple(order[:2])
    (note,) = [note for note in lexicon.notes if "zookeeper" in note]
    assert "engineer" not in note


def test_random_groups_are_drawn_without_repetition_from_groups_and_control_words():
    experiment = association()
    lexicon, groups = lexicon_of(experiment), list(experiment.groups.values())
    draw = functools.partial(draw_groups, lexicon, groups, experiment.control_words, draws=50)
    draws = draw(seed=1)
    assert (draws == draw(seed=1)).all() and (draws != draw(seed=2)).any()
    assert all(len(set(draw)) == 6 for draw in draws.tolist())
    pool = [*experiment.group_words, *experiment.control_words]
    assert np.unique(draws).tolist() == list(range(len(pool)))


@pytest.mark.parametrize(
    ("settings", "word", "keys"),
    [
        ({"roles": ["engineer", "physician"]}, "physician", ("roles", 1)),
        ({"groups": {"men": ["man"], "women": ["lady"]}}, "lady", ("groups", "women", 0)),
        ({"templates": [*TEMPLATES, "the un{} runs ."]}, "engineer", ("roles", 0)),
        ({"templates": ["cat " * 70 + "{}", *TEMPLATES], "truncate": True}, "engineer", None),
    ],
)
def test_a_word_that_the_tokenizer_does_not_read_is_named(bert, settings, word, keys):
    with pytest.raises(ExperimentError) as raised:
        run_association(association(bert, **settings))
    assert f"'{word}'" in raised.value.problem
    assert raised.value.keys == (keys or ("roles", 0))


def test_a_file_outside_the_folders_of_a_server_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "secret.yaml"
    path.write_text("kind: secret-token\n")
    monkeypatch.setenv("NEUROSCOPE_ROOTS", str(tmp_path / "allowed"))
    with pytest.raises(ns.NeuroscopeError) as raised:
        association_experiment(path)
    assert "secret-token" not in str(raised.value)


def test_too_few_control_words_of_a_length_are_noted():
    groups = {"men": ["bartender", "zookeeper"], "women": ["beekeeper", "lutenist"]}
    words = ["guest", "visitor", "taxpayer", "reader", "skydiver"]
    lexicon = lexicon_of(association(groups=groups, control_words=words))
    assert any("fewer control words" in note for note in lexicon.notes)


def test_words_that_are_the_same_tokens_are_named():
    # accents are dropped by the tokenizer of minilm
    with pytest.raises(ExperimentError) as raised:
        check(association(roles=["cafe", "café"]))
    assert "'cafe'" in raised.value.problem and "'café'" in raised.value.problem


def test_few_templates_and_single_words_are_noted(bert):
    groups = {"men": ["man"], "women": ["woman", "girl"]}
    (result,) = run_association(association(bert, groups=groups, **FEW))
    assert any("0.25" in note for note in result.notes)
    assert any("'men'" in note and "'women'" not in note for note in result.notes)
    assert np.isnan([row.p for row in result.rows]).all()
    assert not np.isnan([row.low for row in result.rows if row.view == "span"]).any()


@pytest.fixture(scope="module")
def directly():
    """Return raw and controlled contrasts of minilm, from the outputs of Hugging Face."""
    model = ns.load_model("minilm")
    experiment = association(site="resid_post", layers="1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROSCOPE_HOME", tempfile.mkdtemp())
        moments = read_baseline(ensure_baseline(model, "resid_post"), "content", 1)
        result = ns.associate(model, experiment)
    controls = {row.word: row.controls.split(", ") for row in result.words if row.use == "role"}

    @functools.cache
    def unit(template, word, around):
        text = template.replace("{}", word)
        encoded = model.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = model.module(**encoded, output_hidden_states=True).hidden_states[2][0]
        z = (hidden.numpy().astype(float) - moments.mean) / np.where(moments.sd > 0, moments.sd, 1)
        tokens = model.tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
        place = tokens.index(word)
        end = len(tokens) - 2  # before the final punctuation and [SEP]
        vector = np.concatenate([z[1:place], z[place + 1 : end]]).ravel() if around else z[place]
        return vector / np.linalg.norm(vector)

    def similarity(template, word, group, around):
        units = [unit(template, other, around) for other in experiment.groups[group]]
        return float(np.mean([unit(template, word, around) @ other for other in units]))

    def raw(template, word, around):
        return similarity(template, word, "men", around) - similarity(
            template, word, "women", around
        )

    values = {}
    for role, view in itertools.product(experiment.roles, ("span", "context")):
        around = view == "context"
        own = [raw(template, role, around) for template in TEMPLATES]
        others = [
            np.mean([raw(template, control, around) for control in controls[role]])
            for template in TEMPLATES
        ]
        values[role, view] = np.mean(own), np.mean(np.subtract(own, others))
    return result, values


def test_contrasts_equal_those_computed_from_the_outputs_of_hugging_face(directly):
    result, values = directly
    assert {(row.role, row.view) for row in result.rows} == set(values)
    for row in result.rows:
        raw, controlled = values[row.role, row.view]
        assert row.raw == pytest.approx(raw, abs=1e-5)
        assert row.controlled == pytest.approx(controlled, abs=1e-5)
        assert row.low <= row.controlled <= row.high and row.n == len(TEMPLATES)


def test_q_values_are_corrected_over_all_contrasts(directly):
    result, _ = directly
    for p, q in (("p", "q"), ("p_words", "q_words")):
        expected = false_discovery_control([getattr(row, p) for row in result.rows])
        np.testing.assert_allclose([getattr(row, q) for row in result.rows], expected)


def test_neurons_are_those_that_contribute_most(directly):
    result, _ = directly
    sizes = [abs(row.contribution) for row in result.neurons if row.role == "nurse"]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 10
    assert all(0 <= row.p <= row.q <= 1 for row in result.neurons)


def test_a_planted_association_is_found_and_named(bert, tmp_path):
    model = planted(bert, tmp_path / "planted", strength=0.7)
    (result,) = run_association(association(model))
    (before,) = run_association(association(bert))
    for role, sign in (("engineer", 1), ("nurse", -1)):
        values = result.values("controlled", (role, "men", "women"))
        assert (sign * values > 0.05).all()
        assert (np.abs(values) > np.abs(before.values("controlled", (role, "men", "women")))).all()
    first = [row for row in result.rows if row.layer == 0 and row.view == "span"]
    assert all(row.p == pytest.approx(2 / 2**8) and row.q < 0.05 for row in first)
    assert result.largest(1)[0] in CONTRASTS


def test_neurons_add_up_to_the_contrast(bert, monkeypatch):
    monkeypatch.setattr("neuroscope.studies.association.rows.MOST_NEURONS", 32)  # all of them
    (result,) = run_association(association(bert))
    for row in result.rows:
        if row.view == "span":
            terms = [
                other.contribution
                for other in result.neurons
                if (other.layer, other.role) == (row.layer, row.role)
            ]
            assert len(terms) == 32 and sum(terms) == pytest.approx(row.controlled)


def test_a_causal_model_is_read_after_the_gap_only(family_folder):
    llama = family_folder("llama")
    model = ns.load_model(str(llama))
    experiment = association(llama)
    activations = ns.extract(model, experiment.prompt_set, pool="none", token_rule="all")
    gaps = lexicon_of(experiment, llama).gaps
    count = len(experiment.words)
    for number, gap in enumerate(gaps):
        for site in activations:
            prompts = activations[site][number * count : (number + 1) * count]
            for values in prompts[1:]:
                np.testing.assert_allclose(values[: gap.start], prompts[0][: gap.start], atol=1e-5)
    result = ns.associate(model, experiment)
    templates = {row.view: row.n for row in result.rows}
    assert templates == {"span": 8, "context": 7}  # no word follows the gap of one template


def test_an_encoder_reads_words_before_the_gap_too(bert):
    (result,) = run_association(association(bert))
    assert {row.n for row in result.rows} == {8}


def test_weat_of_the_study_is_that_of_the_mean_vectors(bert):
    experiment = association(bert, layers="1")
    model = ns.load_model(str(bert))
    result = ns.associate(model, experiment)
    activations = ns.extract(model, experiment.prompt_set, pool="none", token_rule="all", layers=1)
    gaps, count = lexicon_of(experiment, bert).gaps, len(experiment.words)

    def vectors(words):
        places = [experiment.words.index(word) for word in words]
        return np.array(
            [
                np.mean(
                    [
                        activations["resid_post.1"][number * count + place][gap.start]
                        for number, gap in enumerate(gaps)
                    ],
                    axis=0,
                )
                for place in places
            ]
        )

    groups = [vectors(words) for words in experiment.groups.values()]
    controls = next(row.controls.split(", ") for row in result.words if row.word == "nurse")
    expected = weat(*groups, vectors(["nurse"]), vectors(controls))
    (row,) = [row for row in result.established if (row.measure, row.role) == ("weat", "nurse")]
    assert (row.d, row.p, row.items) == (pytest.approx(expected.d, abs=1e-5), expected.p, 6)
