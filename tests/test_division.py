"""Division of an extraction into parts."""

import random

import pyarrow.parquet as pq
import pytest
from extractions import CLOSE, store
from stored import assert_same

from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations
from neuroscope.studies.store.division import Estimate, PartLimits
from neuroscope.studies.store.spec import ExtractionSpec

LIMITS = PartLimits()


@pytest.fixture(scope="module")
def model_folder(family_folder):
    return str(family_folder("bert"))


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(model_folder)


@pytest.fixture(scope="module")
def streamed(model_folder):
    return load_model(model_folder, memory="stream")


def estimate(model, tokens_per_prompt, pool="mean", values=True, limits=LIMITS):
    """Return the estimate for a billion prompts."""
    spec = ExtractionSpec(
        checkpoint=model.checkpoint, prompts=range(10**9), sites=(Site("resid_post", 0),), pool=pool
    )
    return Estimate(spec, model, tokens_per_prompt * 10**9, tokens_per_prompt, values, limits)


def per_part(model, tokens_per_prompt, batch_tokens=2048, **options):
    return estimate(model, tokens_per_prompt, **options).prompts_per_part(batch_tokens)


def test_parts_are_limited_by_memory(model):
    assert per_part(model, 10) == int(128e6 / (32 * 4 + 10 * 256))
    assert per_part(model, 1000) == int(128e6 / (32 * 4 + 1000 * 256))
    assert per_part(model, 1000, pool="none") == int(128e6 / (1000 * (32 * 4 + 256)))
    assert per_part(model, 10, limits=PartLimits(bytes=1e7)) == int(1e7 / (32 * 4 + 10 * 256))


def test_parts_fill_some_batches_within_a_larger_limit(model):
    assert per_part(model, 1000, batch_tokens=300_000) == 1200
    limits = PartLimits(full_batches=2)
    assert per_part(model, 1000, batch_tokens=300_000, limits=limits) == 600
    assert per_part(model, 1000, batch_tokens=10**6) == int(512e6 / (32 * 4 + 1000 * 256))


def test_parts_are_limited_by_the_work_that_may_be_lost(model, streamed):
    weights = sum(weight.numel() for index in (0, 1) for weight in model.layer(index).parameters())
    limits = PartLimits(operations={"cpu": 2 * weights * 1000 * 77.5})
    assert per_part(model, 1000, limits=limits) == 77
    assert per_part(streamed, 1000, limits=limits) == 775


def test_statistics_alone_need_no_memory_for_values(model):
    assert per_part(model, 10, values=False) == int(128e6 / (10 * 256))
    assert per_part(model, 10, values=False) == per_part(model, 10, values=False, pool="none")
    stored, alone = estimate(model, 10), estimate(model, 10, values=False)
    assert stored.rows_per_prompt == 1 and alone.rows_per_prompt == 0


def test_parts_of_a_streamed_model_fill_half_of_the_free_memory(streamed, monkeypatch):
    module = "neuroscope.studies.store.division.free_memory"
    monkeypatch.setattr(module, lambda device="cpu": 10**9)
    state, row, text = 10 * (32 * 12 + 10), 32 * 12, 10 * 256
    expected = int(10**9 / 2 / (state + row + text) / 1.5)
    assert per_part(streamed, 10) == per_part(streamed, 10, values=False) == expected
    tokens = int(10**9 / 2 / (state + 10 * row + text) / 1.5)
    assert per_part(streamed, 10, pool="none") == tokens


@pytest.mark.parametrize("order", ["short first", "long first", "mixed"])
def test_long_prompts_that_are_neighbours_do_not_enlarge_a_part(model, folder, order):
    texts = ["dog"] * 300 + ["the cat sits on the mat . " * 8] * 30
    if order == "mixed":
        random.Random(0).shuffle(texts)
    prompts = PromptSet.of(texts[:: -1 if "long" in order else 1])
    tokens = (300 * 3 + 30 * 58) / 330  # per prompt
    content = (300 + 30 * 56) / 330
    limits = PartLimits(bytes=6 * tokens * (2 * 32 * 4 + 256), full_batches=0)
    stored = store(folder, model, prompts, ["resid_post"], limits=limits, spec={"pool": "none"})
    rows = [len(pq.read_table(path)) for path in sorted(folder.glob("resid_post.0/*"))]
    assert sum(rows) == content * 330
    assert len(rows) > 30
    assert max(rows) <= 1.5 * 6 * tokens + 58
    in_memory = extract(model, prompts, pool="none")
    assert_same(read_activations(stored.folder), in_memory, provenance=False, atol=CLOSE)
