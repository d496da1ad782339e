"""Threads of one process share a model, a tracker and files, as the requests to a server do."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import psutil
import pytest

from flows.second_process import SecondProcessExecutor
from neuroscope import PromptSet, Tracker, extract, load_model
from neuroscope.errors import PromptError
from neuroscope.extraction.batching import tokenise
from neuroscope.files import atomic_write
from neuroscope.reporting.run import Point
from neuroscope.studies.steps import Step

TEXTS = ["the cat sits on the mat .", "a dog is in the house", "the cat " * 200]
THREADS = 8


def together(function, items):
    """Return function(item) of each item, computed by several threads at once."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, items))


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def model(request, family_folder):
    return load_model(str(family_folder(request.param)))


def ids_of(model, texts, **options):
    """Return the ids of each text."""
    block = tokenise(model, PromptSet.of(texts).prompts, **options)
    return [list(block[index].ids) for index in range(len(texts))]


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_are_cut_as_the_tokenizer_would(model, side, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "truncation_side", side)
    backend = type(model.tokenizer.backend_tokenizer).from_str(
        model.tokenizer.backend_tokenizer.to_str()
    )
    backend.enable_truncation(model.checkpoint.token_limit, direction=side)
    expected = [encoding.ids for encoding in backend.encode_batch(TEXTS)]
    assert ids_of(model, TEXTS, truncate=True) == expected
    assert len(expected[2]) == model.checkpoint.token_limit


def test_threads_with_and_without_truncation_do_not_disturb_each_other(model):
    cut = ids_of(model, TEXTS, truncate=True)

    def tokens(truncate):
        try:
            return ids_of(model, TEXTS, truncate=truncate)
        except PromptError:
            return "refused"

    found = together(tokens, [True, False] * 50)
    assert found == [cut, "refused"] * 50


def test_settings_that_a_user_gives_the_tokenizer_have_no_effect_and_stay(model):
    expected = ids_of(model, TEXTS[:2])
    backend = model.tokenizer.backend_tokenizer
    backend.enable_truncation(3)
    backend.enable_padding(length=20)
    try:
        assert ids_of(model, TEXTS[:2]) == expected
        assert backend.truncation["max_length"] == 3 and backend.padding["length"] == 20
    finally:
        backend.no_truncation()
        backend.no_padding()


def test_threads_extract_from_one_model(model):
    requests = list(product(TEXTS[:2], ["resid_post", "mlp_act", "attn_out"])) * 4

    def values(request):
        text, component = request
        acts = extract(model, [text], component, pool="none")
        return [acts[site] for site in acts.sites]

    expected = [values(request) for request in requests]
    for own, found in zip(expected, together(values, requests), strict=True):
        for one, other in zip(own, found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_threads_record_runs_with_one_tracker(database):
    tracker = Tracker.open()

    def record(number):
        with tracker.run("compare", f"run {number}") as run:
            run.log_points([Point("span/cosine", number, step=layer) for layer in range(3)])
        return run.id

    ids = together(record, range(2 * THREADS))
    found = together(tracker.metrics, ids)
    assert found == [
        {"span/cosine": dict.fromkeys(range(3), float(number))} for number in range(2 * THREADS)
    ]
    assert {run.id for run in tracker.find_runs("compare")} == set(ids)


def test_threads_write_one_file(tmp_path):
    path = tmp_path / "file"

    def write(number):
        with atomic_write(path) as file:
            for _ in range(100):
                file.write(bytes([number]) * 1000)

    together(write, range(64))
    content = path.read_bytes()
    assert len(content) == 100_000 and len(set(content)) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_an_executor_ends_only_its_own_process():
    step = Step("extract", os.getpid, (), loads_model=True)
    with SecondProcessExecutor() as kept:
        own = kept.submit(step).result()
        with SecondProcessExecutor() as other:
            ended = other.submit(step).result()
        assert not psutil.pid_exists(ended)
        assert kept.submit(step).result() == own
