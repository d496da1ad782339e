"""Streamed models give the same values, and hold the weights of at most two layers."""

from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

import pytest
import torch
from models import FAMILIES, hook_count, make_model
from streamed import (
    LAYERS,
    PROMPTS,
    assert_close,
    batches_of,
    clone,
    every_site,
    is_empty,
    read,
    stream_values,
)
from torch.multiprocessing.reductions import StorageWeakRef

from neuroscope.errors import ModelError, ResourceError
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.extraction.reading import read_sites
from neuroscope.extraction.recorder import Recorder
from neuroscope.extraction.weights import WeightFiles
from neuroscope.sites import Site


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a four-layer model."""
    return make_model("llama", tmp_path_factory.mktemp("four"), layers=LAYERS)


@pytest.fixture(scope="module")
def expected(folder):
    """Return the values of the same model in memory, at every site."""
    return read(load_model(str(folder), memory="resident"))


@pytest.fixture
def streamed(folder):
    return load_model(str(folder), memory="stream")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_side": "left"},
        {"attention": "eager"},
        {"attention": "eager", "padding_side": "left"},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_streaming_gives_exactly_the_same_values(family, options, family_folder):
    path = str(family_folder(family))
    expected = read(load_model(path, memory="resident", **options))
    assert len({batch.shape[1] for batch in expected[Site("resid_post", 0)]}) > 2
    assert_close(read(load_model(path, memory="stream", **options)), expected, atol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_converted(dtype, folder):
    model = load_model(str(folder), memory="stream", dtype=dtype)
    assert model.dtype == dtype
    expected = read(load_model(str(folder), memory="resident", dtype=dtype))
    assert_close(read(model), expected, atol=0)


class Read(NamedTuple):
    """Weight that has been read."""

    name: str
    storage: StorageWeakRef  # the memory into which the weight was read
    size: int  # bytes of that memory


@pytest.fixture
def reads(monkeypatch):
    """Return a list that grows with each weight that is read."""
    recorded = []
    read = WeightFiles.read

    def record_read(self, name, into):
        read(self, name, into)
        storage = into.untyped_storage()
        recorded.append(Read(name, StorageWeakRef(storage), storage.nbytes()))

    monkeypatch.setattr(WeightFiles, "read", record_read)
    return recorded


def freed(reads):
    return all(weight.storage.expired() for weight in reads)


def test_every_weight_is_read_once_for_all_batches(folder, reads):
    model = load_model(str(folder), memory="stream")
    assert not any(weight.name.startswith("layers.") for weight in reads)
    assert len(batches_of(model)) > 2
    read(model)
    stored = WeightFiles(model.checkpoint).stored
    assert sorted(weight.name for weight in reads) == sorted(stored)
    assert model.stream.bytes_read == sum(tensor.size for tensor in stored.values())


def test_layers_after_the_last_site_are_not_read(streamed, reads):
    read(streamed, [Site("mlp_act", 1), Site("attn_out", 0)])
    assert {weight.name.split(".")[1] for weight in reads} == {"0", "1"}


def test_at_most_two_layers_are_in_memory(streamed, reads):
    seen = set()
    resident = load_model(streamed.checkpoint, memory="resident")
    layer = sum(weight.nbytes for weight in resident.layer(0).parameters())

    def check_memory(values):
        memory = {weight.storage: weight.size for weight in reads if not weight.storage.expired()}
        assert sum(memory.values()) <= 2 * layer
        (index,) = [i for i in range(LAYERS) if not is_empty(streamed.layer(i))]
        seen.add(index)

    sites = [site for site in every_site(streamed) if site.component != "final"]
    for _, site, _ in stream_values(streamed, sites, lambda site, batch: check_memory):
        assert is_empty(streamed.layer(site.layer))
    assert seen == set(range(LAYERS))
    assert freed(reads)


def test_values_of_a_layer_are_freed_once_they_are_yielded(streamed):
    earlier, values_per_layer = [], 6 * len(batches_of(streamed))
    for _, _, values in stream_values(streamed):
        assert all(storage.expired() for storage in earlier[:-values_per_layer])
        earlier.append(StorageWeakRef(values.untyped_storage()))
        del values


def test_a_site_is_yielded_once_all_batches_have_passed_its_layer(streamed):
    done = []
    sites = [Site("resid_post", layer) for layer in range(LAYERS)]
    batches = batches_of(streamed)
    order = []
    stream = stream_values(streamed, sites, lambda site, batch: lambda values: done.append(site))
    for batch, site, _ in stream:
        order.append((site, batch.members[0]))
        assert done == [past for past in sites[: site.layer + 1] for _ in batches]
    assert order == [(site, batch.members[0]) for site in sites for batch in batches]


def raising(error, calls):
    """Return a reduction that raises an error after some calls."""
    remaining = iter(range(calls))

    def reduce(values):
        if next(remaining, None) is None:
            raise error

    return lambda site, batch: reduce


@pytest.mark.parametrize("calls", [0, 3, 30])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_ends_all_passes_and_frees_the_weights(error, calls, streamed, expected, reads):
    before = hook_count(streamed)
    with pytest.raises(error):
        read(streamed, keep=raising(error, calls))
    assert freed(reads)
    assert_untouched(streamed, expected, before)


def test_a_stream_can_be_left_early(streamed, expected, reads):
    before = hook_count(streamed)
    for _, site, _ in stream_values(streamed):
        if site.layer == 1:
            break
    assert freed(reads)
    assert_untouched(streamed, expected, before)


def test_an_error_in_the_model_is_raised(streamed, expected):
    before = hook_count(streamed)
    batches = batches_of(streamed)
    batches[-1].ids[:] = 10**6
    with pytest.raises(ModelError, match="IndexError"):
        list(read_sites(streamed, batches, every_site(streamed), clone, TokenBudget(24)))
    assert_untouched(streamed, expected, before)


def assert_untouched(model, expected, hooks):
    """Fail if a stream has left a hook, weights or a mode, or if the next stream fails."""
    assert hook_count(model) == hooks
    assert all(is_empty(model.layer(index)) for index in range(LAYERS))
    assert not torch.is_inference_mode_enabled()
    assert_close(read(model), expected)


def test_the_caller_is_not_in_inference_mode_between_layers(streamed):
    for _ in stream_values(streamed, [Site("mlp_act", 2)]):
        assert not torch.is_inference_mode_enabled()


def test_a_pass_has_the_context_variables_of_the_caller(streamed):
    variable = ContextVar("variable")
    variable.set("value")
    kept = read(streamed, [Site("resid_post", 1)], lambda site, batch: lambda _: variable.get())
    assert set(kept[Site("resid_post", 1)]) == {"value"}


def test_passes_are_stopped_after_the_last_layer_or_finish_by_themselves(streamed, folder):
    outputs = []

    def run(inputs):
        outputs.append(streamed.module(**inputs).last_hidden_state)

    inputs = [batch.inputs(streamed) for batch in batches_of(streamed)]
    passes = [partial(run, arguments) for arguments in inputs]
    assert list(streamed.stream.run(passes, 2)) == [0, 1]
    assert outputs == []
    assert list(streamed.stream.run(passes, LAYERS)) == [0, 1, 2, 3]
    resident = load_model(str(folder), memory="resident").module
    for output, arguments in zip(outputs, inputs, strict=True):
        torch.testing.assert_close(output, resident(**arguments).last_hidden_state)


def test_two_streams_of_one_model_can_take_turns(streamed, expected):
    first, second = {}, {}
    for first_value, second_value in zip(
        stream_values(streamed), stream_values(streamed), strict=True
    ):
        for kept, (_, site, values) in ((first, first_value), (second, second_value)):
            kept.setdefault(site, []).append(values)
    assert_close(first, expected)
    assert_close(second, expected)


def test_a_streamed_module_cannot_be_called(streamed):
    inputs = batches_of(streamed)[0].inputs(streamed)
    with Recorder(streamed, every_site(streamed)) as recorder:
        for call in (lambda: streamed.module(**inputs), lambda: recorder.run(inputs)):
            with pytest.raises(ModelError) as raised:
                call()
            assert [option.in_python for option in raised.value.options] == ["memory='resident'"]


def test_running_out_of_memory_raises_an_error_with_a_smaller_budget(streamed):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = streamed.layer(2).register_forward_pre_hook(fail)
    with pytest.raises(ResourceError, match=r"\b24\b") as raised:
        extract(streamed, PROMPTS, budget=24)
    assert [option.in_python for option in raised.value.options] == ["budget=12"]
    hook.remove()
    extract(streamed, PROMPTS, budget=24)


def test_the_repr_of_a_model_says_whether_it_is_streamed(streamed, folder):
    assert streamed.streamed
    assert repr(streamed).endswith("llama, 4 layers, streamed)")
    assert (str(streamed.device), streamed.dtype, streamed.attention) == ("cpu", "float32", "sdpa")
    resident = load_model(str(folder))
    assert not resident.streamed
    assert repr(resident).endswith("llama, 4 layers)")
