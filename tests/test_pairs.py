"""Scores of pairs of prompts and of their control pairs, against planted truth and Hugging Face."""

import json
from difflib import SequenceMatcher

import numpy as np
import pytest
import torch
from masked import make_masked_model
from models import auto_class_with_head, copy_with_weights, make_model
from scipy.stats import binomtest

import neuroscope as ns
from neuroscope.errors import HeadlessError, NeuroscopeError, PromptError
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.models import load_model
from neuroscope.prompt_files import read_pairs
from neuroscope.prompts import PromptPair
from neuroscope.reporting.tracking import Tracker
from neuroscope.stats.shares import paired_p_value, share
from neuroscope.studies.association.pairs import check_models, scored_pairs
from neuroscope.studies.association.pairs_tokens import ControlTokens, PairTokens

SWAPS = [("man", "woman"), ("boy", "girl"), ("cat", "dog"), ("king", "queen"), ("red", "blue")]
FRAMES = ["the black {} sits on the mat .", "a very old {} is here", "in the house a {} walks !"]


def pairs_of(swaps=SWAPS, frames=FRAMES, *, flipped=False):
    """Return pairs of every frame and swap, with the labels `frame` and `odd`."""
    return [
        PromptPair(
            f"{f}-{s}",
            *(frame.format(word) for word in (swap[::-1] if flipped else swap)),
            {"frame": str(f)} | ({"odd": "yes"} if s % 2 else {}),
        )
        for f, frame in enumerate(frames)
        for s, swap in enumerate(swaps)
    ]


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    """Return a GPT-2 whose predictions do not depend on the context, and its log probabilities."""
    source = make_model("gpt2", tmp_path_factory.mktemp("gpt2"), head=True)
    bias = torch.randn(32, generator=torch.Generator().manual_seed(1))

    def constant(weights):
        names = {name.rpartition("ln_f.")[2]: name for name in weights if "ln_f." in name}
        weights[names["weight"]] = torch.zeros(32)
        weights[names["bias"]] = bias
        return weights

    folder = copy_with_weights(source, tmp_path_factory.mktemp("unigram"), constant)
    model = load_model(str(folder), head=True)
    weight = model.module.get_output_embeddings().weight.detach()
    return model, (weight @ bias).double().log_softmax(dim=0).numpy()


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Return the folder of a masked model, and the model."""
    folder = make_masked_model(tmp_path_factory.mktemp("masked"))
    return folder, load_model(str(folder), head=True)


def ordered(model, logs):
    """Return the swaps with the word first that the planted model prefers."""
    id_of = {word: model.tokenizer.encode(f" {word}")[0] for swap in SWAPS for word in swap}
    return [tuple(sorted(swap, key=lambda word: -logs[id_of[word]])) for swap in SWAPS]


def test_a_planted_preference_is_found(unigram):
    model, logs = unigram
    swaps = ordered(model, logs)
    result = scored_pairs(model, pairs_of(swaps))
    flipped = scored_pairs(model, pairs_of(swaps, flipped=True))
    row = result.overall
    assert (row.score, row.n, row.ties, result.measure) == (100, 15, 0, "log-likelihood")
    assert flipped.overall.score == 0
    assert flipped.overall.control_score == pytest.approx(100 - row.control_score)
    for scored in result.pairs:
        ids = [model.tokenizer.encode(text) for text in (scored.control_a, scored.control_b)]
        expected = [logs[own[1:]].sum() for own in ids]
        found = (scored.control_log_likelihood_a, scored.control_log_likelihood_b)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def shared_likelihoods(module, model, pair):
    """Return Hugging Face's sums over the shared tokens of both prompts, masked one by one."""
    mask, sums = model.tokenizer.mask_token_id, []
    a, b = (model.tokenizer.encode(prompt.text) for prompt in pair.prompts)
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    for ids, starts in ((a, [m.a for m in blocks]), (b, [m.b for m in blocks])):
        positions = [
            start + n for start, m in zip(starts, blocks, strict=True) for n in range(m.size)
        ]
        total = 0.0
        for at in positions[1:-1]:
            hidden = [mask if n == at else id for n, id in enumerate(ids)]
            with torch.inference_mode():
                logits = module(torch.tensor([hidden])).logits[0, at].double()
            total += float(logits.log_softmax(dim=0)[ids[at]])
        sums.append(total)
    return sums


def test_masked_scores_are_those_of_the_shared_tokens(masked):
    folder, model = masked
    module = auto_class_with_head("bert").from_pretrained(folder).eval()
    ranked = []
    for pair in pairs_of():
        a, b = shared_likelihoods(module, model, pair)
        texts = (pair.a, pair.b) if a > b else (pair.b, pair.a)
        ranked.append((PromptPair(pair.id, *texts), max(a, b), min(a, b)))
    result = scored_pairs(model, [pair for pair, *_ in ranked])
    assert result.measure == "pll-word-l2r" and result.overall.score == 100
    for scored, (_, larger, smaller) in zip(result.pairs, ranked, strict=True):
        found = (scored.log_likelihood_a, scored.log_likelihood_b)
        np.testing.assert_allclose(found, (larger, smaller), atol=1e-4)
    swapped = [PromptPair(pair.id, pair.b, pair.a) for pair, *_ in ranked]
    assert scored_pairs(model, swapped).overall.score == 0


def test_intervals_and_p_value_are_those_of_all_pairs_and_of_labels(masked):
    result = scored_pairs(masked[1], pairs_of(), seed=3)
    frame = result.to_frame()
    own = frame["log_likelihood_a"] > frame["log_likelihood_b"]
    control = frame["control_log_likelihood_a"] > frame["control_log_likelihood_b"]
    differ, first = int((own != control).sum()), int((own & ~control).sum())
    row = result.overall
    assert row.score == pytest.approx(100 * own.mean())
    assert row.control_score == pytest.approx(100 * control.mean())
    assert row.p == pytest.approx(binomtest(first, differ).pvalue if differ else 1)
    assert row.low < row.score < row.high or row.score in (0, 100)
    assert [(row.label, row.value, row.n) for row in result.rows] == [
        *(("frame", str(number), 5) for number in range(3)),
        ("odd", "yes", 6),
    ]
    for row in result.rows:
        assert row.score == pytest.approx(100 * own[frame[row.label] == row.value].mean())
    assert list(frame["frame"]) == [pair.labels["frame"] for pair in pairs_of()]


def test_shares_have_wilson_intervals():
    z, p, n = 1.959963984540054, 0.7, 10
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = share([True] * 7 + [False] * 3)
    ends = [100 * (middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert (found.percent, found.count) == (pytest.approx(70), 10)
    np.testing.assert_allclose((found.low, found.high), ends)
    assert paired_p_value([True] * 6, [False] * 6) == pytest.approx(2 / 2**6)
    assert paired_p_value([True, False], [True, False]) == 1


def controls_of(model, pairs, seed=0):
    """Return the tokens of pairs and the ids of their control pairs."""
    a, b = (tokenise(model, [pair.prompts[side] for pair in pairs]) for side in (0, 1))
    tokens = [PairTokens.of(a, b, number) for number in range(len(pairs))]
    drawing = ControlTokens(model.vocabulary, tokens, len(model.vocabulary.texts))
    drawn = [drawing.drawn(each.modified, np.random.default_rng(seed)) for each in tokens]
    return tokens, [each.replaced(ids) for each, ids in zip(tokens, drawn, strict=True)]


def test_control_pairs_differ_at_the_same_tokens_and_in_others(unigram):
    model, _ = unigram
    tokens, controls = controls_of(model, pairs_of())
    modified = {id for each in tokens for id in each.modified}
    assert len(modified) == 10
    for each, control in zip(tokens, controls, strict=True):
        for ids, shared, new in zip(each.ids, each.shared, control, strict=True):
            assert (ids[shared] == new[shared]).all() and not modified & {*new[~shared].tolist()}
            for old, drawn in zip(ids[~shared].tolist(), new[~shared].tolist(), strict=True):
                texts = [model.vocabulary.texts[id] for id in (old, drawn)]
                assert all(text[0] == "Ġ" and text[1:].isalpha() for text in texts)
        assert control[0].tolist() != control[1].tolist()


def test_a_token_has_the_same_control_throughout_a_pair(unigram):
    model, _ = unigram
    pair = PromptPair("0", "a man and a man !", "a woman and a woman !")
    (tokens,), (control,) = controls_of(model, [pair])
    for new, shared in zip(control, tokens.shared, strict=True):
        assert len(set(new[~shared].tolist())) == 1 and (~shared).sum() == 2


def test_equal_seeds_give_equal_control_pairs(unigram):
    texts = [
        [(scored.control_a, scored.control_b) for scored in scored_pairs(*given).pairs]
        for given in ([unigram[0], pairs_of()],) * 2
    ]
    other = scored_pairs(unigram[0], pairs_of(), seed=1)
    assert texts[0] == texts[1]
    assert texts[0] != [(scored.control_a, scored.control_b) for scored in other.pairs]


def test_punctuation_stays_in_control_pairs(unigram):
    pair = PromptPair("0", "a man . walks", "a woman ! walks")
    (scored,) = scored_pairs(unigram[0], [pair]).pairs
    assert " . walks" in scored.control_a and " ! walks" in scored.control_b


def test_pairs_that_cannot_be_scored_are_left_out_and_named(masked):
    unknown = PromptPair("same", "a zebra walks", "a lion walks")
    apart = PromptPair("apart", "the cat", "a dog")
    marks = PromptPair("marks", "a cat .", "a cat !")
    result = scored_pairs(masked[1], [*pairs_of(), unknown, apart, marks])
    assert result.overall.n == 15
    for id in ("same", "apart", "marks"):
        assert any(f"id {id}" in note for note in result.notes)
    with pytest.raises(PromptError, match="id same"):
        scored_pairs(masked[1], [unknown])


def test_ties_are_not_likelier(unigram):
    pairs = [PromptPair(str(n), "man and woman", "woman and man") for n in range(3)]
    pairs = [PromptPair(pair.id, f"a {pair.a}", f"a {pair.b}") for pair in pairs]
    result = scored_pairs(unigram[0], pairs)
    assert (result.overall.score, result.overall.ties) == (0, 3)
    assert sum("equally likely" in note for note in result.notes) == 2
    assert any("only 3 pairs" in note for note in result.notes)


def test_a_prompt_that_is_too_long_is_named_or_cut(masked):
    pair = PromptPair("long", "a cat " * 60, "a dog " * 60, {}, "line 3")
    with pytest.raises(PromptError, match="line 3"):
        scored_pairs(masked[1], [pair])
    assert scored_pairs(masked[1], [pair], truncate=True).overall.n == 1


def test_models_without_a_head_are_refused_before_another_is_loaded(masked):
    with pytest.raises(HeadlessError, match="minilm"):
        check_models([str(masked[0]), "minilm"])
    with pytest.raises(HeadlessError):
        check_models([load_model(str(masked[0]))])


@pytest.mark.parametrize(
    ("text", "options", "data"),
    [
        ("prompt_a,promptb\nx,y\n", {}, ["line 1", "prompt_b", ("b_column", "promptb")]),
        (
            "n,sent_more,sent_less\n3,a longer text,a text\n",
            {},
            ["line 1", ("a_column", "sent_more"), ("b_column", "sent_less")],
        ),
        ("prompt_a,prompt_b\nx,y\nx, \n", {}, ["line 3", "'prompt_b'"]),
        ("prompt_a,prompt_b\nx,y\n,y\n", {}, ["line 3", "'prompt_a'"]),
        ("prompt_a,prompt_b\nx,y\nx y,x  y\n", {}, ["line 3", "equal"]),
        ("prompt_a,prompt_b\n", {}, ["no prompts"]),
        ("a,prompt_b\nx,y\n", {"a_column": "prompt_b"}, ["prompt_b"]),
    ],
)
def test_faults_of_a_file_name_the_line(text, options, data, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(PromptError) as raised:
        read_pairs(path, **options)
    error = raised.value
    assert str(path) in error.problem
    suggested = [(option.name, option.value) for option in error.options]
    assert suggested == [each for each in data if isinstance(each, tuple)]
    assert all(each in error.problem for each in data if isinstance(each, str))


@pytest.fixture
def file(tmp_path):
    """Return a file of 15 pairs with a label."""
    path = tmp_path / "swaps.jsonl"
    rows = [{"id": p.id, "prompt_a": p.a, "prompt_b": p.b, **p.labels} for p in pairs_of()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command_prints_one_document_and_records_a_run_per_model(
    file, masked, unigram, run_json, database
):
    folders = [str(masked[0]), unigram[0].name]
    document = run_json(
        "pairs", file, "--model", folders[0], "--model", folders[1], "--note", "why"
    )
    assert document["overview"] is None
    assert [run["model"] for run in document["runs"]] == folders
    assert [run["measure"] for run in document["runs"]] == ["pll-word-l2r", "log-likelihood"]
    tracker = Tracker.connect()
    runs = tracker.find_runs("association", {"neuroscope.analysis": "pairs"})
    assert len({run.tags["neuroscope.group"] for run in runs}) == 1
    for run, folder in zip(document["runs"], folders, strict=True):
        expected = ns.score_pairs(folder, file).to_dict()
        assert {key: run[key] for key in expected} == expected | {"run_id": run["run_id"]}
        (recorded,) = tracker.find_runs("association", {"neuroscope.model": folder})
        assert recorded.id == run["run_id"] and recorded.tags["neuroscope.analysis"] == "pairs"
        assert recorded.metrics["control_score"] == pytest.approx(run["control_score"])
        assert recorded.params["measure"] == run["measure"]
        assert tracker.artifact(run["run_id"], "tables/pairs.csv").read_text().count("\n") == 16
        report = tracker.artifact(run["run_id"], "report.html").read_text()
        assert str(run["report"]).endswith("report.html") and "2012.15859" in report


def test_the_command_prints_tables_and_records_nothing_if_asked(file, masked, run_command, home):
    code, printed = run_command("pairs", file, "--model", masked[0], "--no-record")
    assert code == 0 and "prompt_a is likelier in" in printed.out
    assert "only 15 pairs" in printed.err and not (home / "mlflow.db").exists()


def test_the_command_reports_faults_with_its_own_options(file, masked, run_command, tmp_path):
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("first,second\nx,y\n")
    code, printed = run_command("pairs", wrong, "--model", "minilm")
    assert code == 2 and "--a-column first" in printed.err and "--b-column second" in printed.err
    code, printed = run_command("pairs", file, "--model", masked[0], "--model", "minilm")
    assert code == 2 and "minilm" in printed.err and "bert-base-uncased" in printed.err


def test_an_unreadable_file_is_refused(tmp_path):
    with pytest.raises(NeuroscopeError):
        ns.score_pairs("minilm", tmp_path / "missing.csv")
