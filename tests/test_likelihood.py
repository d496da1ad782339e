"""Log-likelihoods of tokens and associations of predictions, against Hugging Face."""

import numpy as np
import pytest
import torch
from masked import FRAMES, make_masked_model
from models import CAUSAL, auto_class_with_head, make_model

from neuroscope.errors import HeadlessError, ModelError, NonfiniteError, PromptError
from neuroscope.extraction import likelihood
from neuroscope.extraction.batching import texts_of, tokenise
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.extraction.likelihood import (
    check_likelihood,
    likelihood_measure,
    prediction_associations,
    token_log_likelihoods,
)
from neuroscope.extraction.models import load_model
from neuroscope.prompts import PromptSet
from neuroscope.tokens import TokenBlock, Vocabulary

PROMPTS = PromptSet.of(
    ["the black cat sits on the mat .", "a dog", "the teacher is a transgender man !"]
).prompts
STATEMENTS = ["the {role} is a {group} .", "a {group} is the {role} !"]


@pytest.fixture(scope="module", params=FRAMES)
def masked(request, tmp_path_factory):
    """Return the folder of a masked model of each family, and the model."""
    folder = make_masked_model(tmp_path_factory.mktemp(request.param), request.param)
    return folder, load_model(str(folder), head=True)


def hugging_face(folder, family):
    """Return a function that gives Hugging Face's log probabilities for ids."""
    module = auto_class_with_head(family).from_pretrained(folder).eval()

    def log_probabilities(ids):
        with torch.inference_mode():
            return module(torch.tensor([ids])).logits[0].double().log_softmax(dim=1).numpy()

    return module, log_probabilities


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", CAUSAL)
def test_causal_log_likelihoods_equal_the_loss(family, side, family_folder):
    folder = family_folder(family, head=True)
    model = load_model(str(folder), head=True, padding_side=side)
    module, _ = hugging_face(folder, family)
    block = tokenise(model, PROMPTS)
    values = token_log_likelihoods(model, block)
    assert likelihood_measure(model) == "log-likelihood"
    for tokens, own in zip(block, np.split(values, block.ends[:-1]), strict=True):
        ids = torch.tensor([tokens.ids])
        with torch.inference_mode():
            loss = float(module(ids, labels=ids).loss)
        assert np.isnan(own[0]) and np.isfinite(own[1:]).all()
        assert -own[1:].mean() == pytest.approx(loss, abs=2e-5)


def pll_word_l2r(log_probabilities, tokens, begins, mask):
    """Return the scores of a prompt's tokens, masked one by one in a plain loop."""
    scores = []
    for at, (id, special) in enumerate(zip(tokens.ids, tokens.special, strict=True)):
        end = next((n for n in range(at + 1, len(tokens)) if begins[n]), len(tokens))
        ids = [mask if at <= n < end else other for n, other in enumerate(tokens.ids)]
        scores.append(np.nan if special else log_probabilities(ids)[at, id])
    return scores


def test_pseudo_log_likelihoods_equal_a_loop_over_hugging_face(masked, monkeypatch):
    folder, model = masked
    _, log_probabilities = hugging_face(folder, model.architecture.family)
    encode = model.tokenizer.backend_tokenizer.encode
    block = tokenise(model, PROMPTS)
    expected = []
    for tokens, prompt in zip(block, PROMPTS, strict=True):
        words = encode(prompt.text).word_ids  # None at special tokens
        begins = [n == 0 or words[n] is None or words[n] != words[n - 1] for n in range(len(words))]
        assert len(begins) == len(tokens)
        expected += pll_word_l2r(log_probabilities, tokens, begins, model.tokenizer.mask_token_id)
    assert not block.word_starts.all()  # a word is split
    np.testing.assert_allclose(token_log_likelihoods(model, block), expected, atol=2e-5)
    monkeypatch.setattr(likelihood, "_COPIED_TOKENS", 40)
    np.testing.assert_allclose(token_log_likelihoods(model, block), expected, atol=2e-5)


def test_given_ids_are_scored_where_asked(masked):
    _, model = masked
    block = tokenise(model, PROMPTS)
    everything = token_log_likelihoods(model, block)
    scored = block.positions == 2
    values = token_log_likelihoods(
        model, TokenBlock(block.ids, block.ends, block.vocabulary), scored
    )
    np.testing.assert_allclose(values[scored], everything[scored], atol=2e-5)
    assert np.isnan(values[~scored]).all()


def test_associations_equal_a_direct_computation(masked):
    folder, model = masked
    _, log_probabilities = hugging_face(folder, model.architecture.family)
    tokenizer, mask = model.tokenizer, model.tokenizer.mask_token_id
    roles, words = ["teacher", "black cat"], ["man", "woman", "transgenders"]
    values = prediction_associations(model, STATEMENTS, roles, words)
    assert values.shape == (2, 2, 3)
    assert np.isnan(values[:, :, 2]).all() and np.isfinite(values[:, :, :2]).all()
    for s, statement in enumerate(STATEMENTS):
        for r, role in enumerate(roles):
            text = statement.format(role=role, group="man")
            encoding = tokenizer.backend_tokenizer.encode(text)
            at, word = next(
                (n, id)
                for n, id in enumerate(encoding.ids)
                if tokenizer.decode([id]).strip() == "man"
            )
            start = text.index(role)
            prior = [id if n != at else mask for n, id in enumerate(encoding.ids)]
            target = list(prior)
            for n, (first, last) in enumerate(encoding.offsets):
                if first < start + len(role) and last > start:
                    prior[n] = mask
            logs = [log_probabilities(ids)[at, word] for ids in (target, prior)]
            assert values[s, r, 0] == pytest.approx(logs[0] - logs[1], abs=2e-5)


def test_an_unknown_word_has_no_association(tmp_path):
    model = load_model(str(make_masked_model(tmp_path)), head=True)
    values = prediction_associations(model, STATEMENTS[:1], ["cat"], ["zebra", "dog"])
    assert np.isnan(values[0, 0]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("texts", "begins"),
    [
        (("<s>", "Ġdon", "'t", "Ġteach", "er", ".", '"', "Hi"), [1, 1, 1, 1, 0, 1, 1, 1]),
        (("[CLS]", "teach", "##er", "-", "made", "[SEP]"), [1, 1, 0, 1, 1, 1]),
        (("▁a", "▁teach", "er", "-", "like", "s"), [1, 1, 0, 1, 1, 0]),
        (("a", "teacher", "."), [1, 1, 1]),
    ],
)
def test_words_begin_at_marks_and_around_punctuation(texts, begins):
    special = frozenset(id for id, text in enumerate(texts) if text in ("<s>", "[CLS]", "[SEP]"))
    block = TokenBlock(
        np.arange(len(texts), dtype=np.int32),
        np.array([len(texts)]),
        Vocabulary(texts, special, None),
    )
    assert block.word_starts.astype(int).tolist() == begins


def test_texts_are_those_of_the_prompts(family_folder):
    model = load_model(str(family_folder("gpt2")))
    assert texts_of(model, tokenise(model, PROMPTS)) == [prompt.text for prompt in PROMPTS]


def test_models_that_cannot_be_scored_are_refused(family_folder, tmp_path):
    headless = load_model(str(family_folder("llama", head=True)))
    with pytest.raises(HeadlessError):
        token_log_likelihoods(headless, tokenise(headless, PROMPTS))
    with pytest.raises(HeadlessError) as raised:
        check_likelihood(find_checkpoint("minilm"))
    assert "minilm" in raised.value.problem and raised.value.remedy
    for family in CAUSAL:
        check_likelihood(find_checkpoint(str(family_folder(family, head=True))))
    unmasked = family_folder("bert", head=True)
    with pytest.raises(ModelError, match="mask"):
        check_likelihood(find_checkpoint(str(unmasked)))
    with pytest.raises(ModelError, match="mask"):
        likelihood_measure(load_model(str(unmasked), head=True))
    untied = make_model("llama", tmp_path, tie_word_embeddings=False)
    with pytest.raises(HeadlessError):
        check_likelihood(find_checkpoint(str(untied)))


def test_a_masked_model_with_its_head_can_be_scored(masked):
    check_likelihood(find_checkpoint(str(masked[0])))


def test_faults_of_statements_are_named(masked, family_folder):
    _, model = masked
    for statement in ("the {role} is a man", "{role} {role} {group}"):
        with pytest.raises(PromptError, match="once"):
            prediction_associations(model, [statement], ["cat"], ["man"])
    with pytest.raises(PromptError, match="tokens"):
        prediction_associations(model, [STATEMENTS[0] + " cat" * 80], ["cat"], ["man"])
    causal = load_model(str(family_folder("llama", head=True)), head=True)
    with pytest.raises(ModelError, match="causal"):
        prediction_associations(causal, STATEMENTS, ["cat"], ["man"])


def test_values_that_are_not_finite_name_their_prompt(masked, monkeypatch):
    _, model = masked
    block = tokenise(model, PROMPTS)
    weight = model.module.get_output_embeddings().weight
    monkeypatch.setattr(weight, "data", torch.full_like(weight, float("nan")))
    with pytest.raises(NonfiniteError, match="second"):
        token_log_likelihoods(model, block.slice(slice(0, 2)), ids=["second", "first"])
