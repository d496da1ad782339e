"""Extractions that are killed, or run in two processes, end as if undisturbed."""

import contextlib
import itertools
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from extractions import (
    CLOSE,
    SITES,
    SMALL_PARTS,
    WORDS,
    Norms,
    joined_statistics,
    random_prompts,
    spec_of,
    store,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import Killed, assert_same, finished_parts

from flows.cli.extract import kept
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.prompt_files import PromptFile, read_prompts
from neuroscope.prompts import PromptSet
from neuroscope.storage.activation_store import read_activations
from neuroscope.storage.manifest import MANIFEST
from neuroscope.storage.writing import stored_prompts
from neuroscope.studies.store.division import Estimate
from neuroscope.studies.store.store import store_activations


@pytest.fixture(scope="module")
def models(family_folder):
    """Return models of an encoder and a decoder that pad on the right and on the left."""
    return {
        (family, side): load_model(str(family_folder(family)), padding_side=side)
        for family in ("bert", "llama")
        for side in ("right", "left")
    }


def kill_at_file(patch, number):
    """Raise Killed when the file after the first `number` files would get its name."""
    count, rename = itertools.count(), os.replace

    def replace(source, target):
        if next(count) == number:
            raise Killed
        rename(source, target)

    patch.setattr(os, "replace", replace)


def assert_equal_norms(folder, expected, site):
    np.testing.assert_array_equal(
        joined_statistics(folder, "norms-1", site), joined_statistics(expected, "norms-1", site)
    )


texts = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join), min_size=1, max_size=25
)


@settings(max_examples=40)
@given(
    texts=texts,
    family=st.sampled_from(["bert", "llama"]),
    side=st.sampled_from(["right", "left"]),
    budget=st.one_of(st.none(), st.integers(1, 400)),
    per_part=st.integers(1, 30),
    tokens_per_part=st.integers(1, 500),
    pool=st.sampled_from(["mean", "max", "first", "last", "none"]),
    rule=st.sampled_from(["content", "all"]),
    killed=st.integers(0, 80),
)
def test_values_do_not_depend_on_batches_parts_padding_or_a_kill(
    models, texts, family, side, budget, per_part, tokens_per_part, pool, rule, killed
):
    """The values are those of each prompt alone, even after a kill at any file."""
    model, prompts = models[family, side], PromptSet.of(texts)
    options = {"budget": budget, "spec": {"pool": pool, "token_rule": rule}}
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Estimate, "prompts_per_part", lambda *_: per_part)
        patch.setattr(Estimate, "tokens_per_part", lambda *_: tokens_per_part)
        interrupted, undisturbed = Path(root) / "interrupted", Path(root) / "undisturbed"
        with pytest.MonkeyPatch.context() as kill:
            kill_at_file(kill, killed)
            try:
                store(interrupted, model, prompts, statistics=[Norms()], **options)
            except Killed:
                kill.undo()
                store(interrupted, model, prompts, statistics=[Norms()], **options)
        store(undisturbed, model, prompts, statistics=[Norms()], **options)
        read = read_activations(undisturbed)
        assert_same(read_activations(interrupted), read, provenance=False)
        for site in read:
            assert_equal_norms(interrupted, undisturbed, site)
    for index in random.Random(0).sample(range(len(texts)), min(3, len(texts))):
        alone = extract(models[family, "right"], [texts[index]], SITES, pool=pool, token_rule=rule)
        for site in alone:
            np.testing.assert_allclose(read[site][index], alone[site][0], atol=CLOSE, rtol=0)


def test_an_interrupted_extraction_says_how_many_prompts_are_stored(models, tmp_path, monkeypatch):
    model, prompts = models["bert", "right"], random_prompts(9)
    monkeypatch.setattr(Estimate, "prompts_per_part", lambda *_: 4)
    counts = []
    for killed in itertools.count():
        folder = tmp_path / str(killed)
        monkeypatch.setattr("flows.cli.extract._folders", [folder])
        with pytest.MonkeyPatch.context() as kill, contextlib.suppress(Killed):
            kill_at_file(kill, killed)
            store(folder, model, prompts)
        counts.append(stored_prompts(folder))
        assert ("no part" in kept()) == (counts[-1] == 0)
        if (folder / MANIFEST).exists():
            break
    assert counts == sorted(counts) and set(counts) == {0, 4, 8, 9}


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["neuroscope.studies.store.store", "transformers.modeling_layers"])


def extract_in_a_process(model, file, folder, result):
    """Extract in a child process, and store the number of computed prompts in `result`."""
    loaded = load_model(model, device="cpu:1")
    spec = spec_of(loaded, PromptFile.open(file))
    result.value = -1
    options = {"budget": 64, "limits": SMALL_PARTS, "statistics": [Norms()]}
    result.value = store_activations(spec, folder, lambda: loaded, **options).computed


def start_extraction(model, file, folder):
    """Start a process; once its model is loaded, return it and its shared result."""
    result = CONTEXT.Value("i", -2)
    process = CONTEXT.Process(target=extract_in_a_process, args=(str(model), file, folder, result))
    process.start()
    while result.value == -2 and process.is_alive():
        time.sleep(0.01)
    return process, result


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(random_prompts(600).texts))
    return path


def finished(folder):
    return finished_parts(folder, [f"{site}.{layer}" for site in SITES for layer in (0, 1)])


def test_repeated_kills_do_not_change_the_result(family_folder, tmp_path, prompt_file):
    """Each kill comes a few files later; finished parts are not written again."""
    model = family_folder("bert")
    interrupted, undisturbed = tmp_path / "interrupted", tmp_path / "undisturbed"
    process, result = start_extraction(model, prompt_file, undisturbed)
    process.join()
    assert result.value == 600
    rng = random.Random(7)
    for _ in range(6):
        before = finished(interrupted)
        files = len(before) + rng.randint(0, len(finished(undisturbed)) // 6)
        process, _ = start_extraction(model, prompt_file, interrupted)
        while process.is_alive() and len(finished(interrupted)) < files:
            time.sleep(0.001)
        process.kill()
        process.join()
        assert before.items() <= finished(interrupted).items()
    before = finished(interrupted)
    process, _ = start_extraction(model, prompt_file, interrupted)
    process.join()
    assert process.exitcode == 0
    assert before.items() <= finished(interrupted).items()
    read = read_activations(interrupted)
    assert_same(read, read_activations(undisturbed), provenance=False)
    for site in read:
        assert_equal_norms(interrupted, undisturbed, site)
    assert not list(interrupted.rglob(".*"))


def test_two_processes_with_the_same_key_share_the_work(family_folder, tmp_path, prompt_file):
    model, folder = family_folder("bert"), tmp_path / "acts"
    started = [start_extraction(model, prompt_file, folder) for _ in range(2)]
    for process, _ in started:
        process.join()
    assert sorted(result.value for _, result in started) == [0, 600]
    in_memory = extract(load_model(str(model)), read_prompts(prompt_file), SITES)
    assert_same(read_activations(folder), in_memory, provenance=False, atol=CLOSE)
