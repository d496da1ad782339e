"""Streamed models give what ordinary ones give, and hold no more than two layers' weights."""

import json
import shutil
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

import pytest
import torch
from conftest import FAMILIES, WORDS, make_model
from safetensors.torch import load_file, save_file
from torch.multiprocessing.reductions import StorageWeakRef

from neuroscope.errors import ModelError, ResourceError
from neuroscope.extraction.batching import batches, tokenise
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.extraction.recorder import Recorder
from neuroscope.extraction.streaming import stream_sites
from neuroscope.extraction.weights import WeightFiles, weight_bytes
from neuroscope.prompts import PromptSet
from neuroscope.sites import COMPONENTS, Site

PROMPTS = PromptSet.of([" ".join(WORDS[start : start + start % 7 + 1]) for start in range(12)])


LAYERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A four-layer model."""
    return make_model("llama", tmp_path_factory.mktemp("four"), layers=LAYERS)


@pytest.fixture(scope="module")
def expected(folder):
    """What the ordinary way gives at every site."""
    return ordinary(load_model(str(folder), memory="resident"))


@pytest.fixture
def streamed(folder):
    return load_model(str(folder), memory="stream")


def inputs_of(model, budget=24):
    """Several batches of different widths."""
    block = tokenise(model, PROMPTS.prompts)
    found = batches(model, block, token_rule="all", budget=TokenBudget(budget))
    return [batch.inputs(model) for batch in found]


def every_site(model):
    return [
        Site(component, layer) for component in COMPONENTS for layer in range(model.layer_count)
    ]


def ordinary(model, sites=None):
    """Site -> the tensor of each batch, the ordinary way."""
    sites = sites or every_site(model)
    with Recorder(model, sites) as recorder:
        runs = [recorder.run(inputs) for inputs in inputs_of(model)]
    return {site: [run[site] for run in runs] for site in sites}


def streaming(model, sites=None, keep=None):
    """The same in a stream."""
    found = stream_sites(
        model, [(inputs, keep) for inputs in inputs_of(model)], sites or every_site(model)
    )
    return dict(found)


def assert_alike(one, other, **close):
    assert one.keys() == other.keys()
    for site in one:
        for a, b in zip(one[site], other[site], strict=True):
            torch.testing.assert_close(a, b, **close or {"rtol": 0, "atol": 1e-5})


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
def test_a_stream_gives_what_the_ordinary_way_gives(family, options, family_folder):
    path = str(family_folder(family))
    expected = ordinary(load_model(path, memory="resident", **options))
    assert len({batch.shape[1] for batch in expected[Site("resid_post", 0)]}) > 2
    assert_alike(streaming(load_model(path, memory="stream", **options)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_of_a_checkpoint_with_a_head_are_read(family, family_folder, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    shutil.copytree(family_folder(family), tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    causal = find_checkpoint(str(family_folder(family))).architecture.causal
    headed = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    headed.from_config(AutoConfig.from_pretrained(tmp_path)).save_pretrained(
        tmp_path, max_shard_size="20KB"
    )
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    expected = ordinary(load_model(str(tmp_path), memory="resident"))
    assert_alike(streaming(load_model(str(tmp_path), memory="stream")), expected)


def rewritten(source, folder, change):
    """A copy of a model's folder, its weights put through `change`."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    weights = change(load_file(source / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_the_names_of_berts_first_files_are_read(family_folder, tmp_path):
    def aged(name):
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        return "bert." + name.replace("LayerNorm.bias", "LayerNorm.beta")

    source = family_folder("bert")
    old = rewritten(source, tmp_path, lambda weights: {aged(k): weights[k] for k in weights})
    expected = ordinary(load_model(str(source), memory="resident"))
    assert_alike(streaming(load_model(old, memory="stream")), expected)


def test_a_missing_pooler_is_not_missed(family_folder, tmp_path):
    def without(weights):
        return {name: one for name, one in weights.items() if "pooler" not in name}

    path = rewritten(family_folder("bert"), tmp_path, without)
    assert streaming(load_model(path, memory="stream"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_converted(dtype, folder):
    model = load_model(str(folder), memory="stream", dtype=dtype)
    assert model.dtype == dtype
    expected = ordinary(load_model(str(folder), memory="resident", dtype=dtype))
    assert_alike(streaming(model), expected, rtol=0, atol=0)


def test_weights_stored_in_half_precision_are_read_as_float32(folder, tmp_path):
    def halved(weights):
        return {name: one.bfloat16() for name, one in weights.items()}

    path = rewritten(folder, tmp_path, halved)
    model = load_model(path, memory="stream")
    assert model.dtype == "float32"
    assert_alike(streaming(model), ordinary(load_model(path, memory="resident")))


class Read(NamedTuple):
    name: str
    storage: StorageWeakRef  # the memory that the weight was put into
    size: int  # bytes of that memory


@pytest.fixture
def reads(monkeypatch):
    """The weights that are read, as they are."""
    found = []
    read = WeightFiles.read

    def watched(self, name, into):
        read(self, name, into)
        storage = into.untyped_storage()
        found.append(Read(name, StorageWeakRef(storage), storage.nbytes()))

    monkeypatch.setattr(WeightFiles, "read", watched)
    return found


def freed(reads):
    return all(one.storage.expired() for one in reads)


def test_every_weight_is_read_once_for_all_batches(folder, reads):
    model = load_model(str(folder), memory="stream")
    assert not any(one.name.startswith("layers.") for one in reads)
    assert len(inputs_of(model)) > 2
    streaming(model)
    stored = WeightFiles(model.checkpoint).stored
    assert sorted(one.name for one in reads) == sorted(stored)
    assert model.stream.bytes_read == sum(one.size for one in stored.values())


def test_layers_after_the_last_wanted_one_are_not_read(streamed, reads):
    streaming(streamed, [Site("mlp_act", 1), Site("attn_out", 0)])
    assert {one.name.split(".")[1] for one in reads} == {"0", "1"}


def test_no_more_than_two_layers_are_in_memory(streamed, reads):
    seen = set()
    resident = load_model(streamed.checkpoint, memory="resident")
    layer = sum(weight.nbytes for weight in resident.layer(0).parameters())

    def look(values):
        memory = {one.storage: one.size for one in reads if not one.storage.expired()}
        assert sum(memory.values()) <= 2 * layer
        (index,) = [i for i in range(LAYERS) if not is_empty(streamed.layer(i))]
        seen.add(index)

    batches = [(inputs, look) for inputs in inputs_of(streamed)]
    for site, _ in stream_sites(streamed, batches, every_site(streamed)):
        assert is_empty(streamed.layer(site.layer))
    assert seen == set(range(LAYERS))
    assert freed(reads)


def is_empty(layer):
    return all(weight.is_meta for weight in layer.parameters())


def test_values_of_a_layer_are_not_held_after_it(streamed):
    earlier = []
    for _, values in stream_sites(
        streamed, [(inputs, None) for inputs in inputs_of(streamed)], every_site(streamed)
    ):
        assert all(one.expired() for one in earlier[:-5])
        earlier += [StorageWeakRef(one.untyped_storage()) for one in values]
        del values


def test_a_layer_comes_when_all_batches_have_gone_through_it(streamed):
    done = []
    batches = [
        (inputs, lambda values, index=index: done.append(index))
        for index, inputs in enumerate(inputs_of(streamed))
    ]
    sites = [Site("resid_post", layer) for layer in range(LAYERS)]
    for count, (site, _) in enumerate(stream_sites(streamed, batches, sites), start=1):
        assert site == sites[count - 1]
        assert done == list(range(len(batches))) * count


def hook_count(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.module.modules()
    )


def raising(error, calls):
    """What is kept, until it raises."""
    left = iter(range(calls))

    def keep(values):
        if next(left, None) is None:
            raise error

    return keep


@pytest.mark.parametrize("calls", [0, 3, 30])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_ends_all_passes_and_frees_the_weights(error, calls, streamed, expected, reads):
    before = hook_count(streamed)
    with pytest.raises(error):
        streaming(streamed, keep=raising(error, calls))
    assert freed(reads)
    assert_untouched(streamed, expected, before)


def test_a_stream_may_be_left_early(streamed, expected, reads):
    before = hook_count(streamed)
    for site, _ in stream_sites(
        streamed, [(inputs, None) for inputs in inputs_of(streamed)], every_site(streamed)
    ):
        if site.layer == 1:
            break
    assert freed(reads)
    assert_untouched(streamed, expected, before)


def test_an_error_in_the_model_is_raised(streamed, expected):
    before = hook_count(streamed)
    inputs = [*inputs_of(streamed), {"input_ids": torch.tensor([[10**6]])}]
    with pytest.raises(IndexError):
        list(stream_sites(streamed, [(one, None) for one in inputs], every_site(streamed)))
    assert_untouched(streamed, expected, before)


def test_a_file_that_is_gone_or_cut_is_told(folder, expected, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    model = load_model(str(tmp_path), memory="stream")
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"ends within layers.*copy it again"):
        streaming(model)
    file.unlink()
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read"):
        streaming(model)
    file.write_bytes(content)
    assert_untouched(model, expected, hook_count(model))


def assert_untouched(model, expected, hooks):
    """Nothing is left of a stream: no hook, no weight, no mode; and the next one works."""
    assert hook_count(model) == hooks
    assert all(is_empty(model.layer(index)) for index in range(LAYERS))
    assert not torch.is_inference_mode_enabled()
    assert_alike(streaming(model), expected)


def test_the_caller_between_layers_is_not_in_inference_mode(streamed):
    for _ in stream_sites(streamed, [(inputs_of(streamed)[0], None)], [Site("mlp_act", 2)]):
        assert not torch.is_inference_mode_enabled()


def test_a_pass_sees_the_callers_context(streamed):
    asked = ContextVar("asked")
    asked.set("here")
    found = streaming(streamed, [Site("resid_post", 1)], keep=lambda values: asked.get())
    assert set(found[Site("resid_post", 1)]) == {"here"}


def test_passes_that_do_not_end_themselves_are_ended_or_run_to_the_end(streamed, folder):
    outputs = []

    def one(inputs):
        outputs.append(streamed.module(**inputs).last_hidden_state)

    passes = [partial(one, inputs) for inputs in inputs_of(streamed)]
    assert list(streamed.stream.run(passes, 2)) == [0, 1]
    assert outputs == []
    assert list(streamed.stream.run(passes, LAYERS)) == [0, 1, 2, 3]
    resident = load_model(str(folder), memory="resident").module
    for output, inputs in zip(outputs, inputs_of(streamed), strict=True):
        torch.testing.assert_close(output, resident(**inputs).last_hidden_state)


def test_streams_of_one_model_may_take_turns(streamed, expected):
    batches = [(inputs, None) for inputs in inputs_of(streamed)]
    pairs = zip(
        *(stream_sites(streamed, batches, every_site(streamed)) for _ in range(2)), strict=True
    )
    found = [dict(one) for one in zip(*pairs, strict=True)]
    for one in found:
        assert_alike(one, expected)


def test_the_module_itself_refuses_to_be_called(streamed):
    with pytest.raises(ModelError, match=r"is streamed.*memory='resident'"):
        streamed.module(**inputs_of(streamed)[0])
    with (
        pytest.raises(ModelError, match="is streamed"),
        Recorder(streamed, every_site(streamed)) as one,
    ):
        one.run(inputs_of(streamed)[0])


def test_a_device_without_the_memory_is_told_with_the_remedy(streamed):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    watch = streamed.layer(2).register_forward_pre_hook(fail)
    with pytest.raises(ResourceError, match=r"not the memory for .*smaller --budget than \d+"):
        extract(streamed, PROMPTS, budget=24)
    watch.remove()
    extract(streamed, PROMPTS, budget=24)


def test_a_model_of_which_two_layers_do_not_fit_is_refused(folder, monkeypatch):
    layer = max(layer_sizes(load_model(str(folder), memory="resident")).values())
    for free, fits in ((1.9 * layer, False), (4 * layer, True)):
        monkeypatch.setattr(
            "neuroscope.extraction.streaming.free_memory", lambda device, free=free: free
        )
        if fits:
            load_model(str(folder), memory="stream")
        else:
            with pytest.raises(ModelError, match=r"as float32 and 0.0 GB are free on cpu: choose"):
                load_model(str(folder), memory="stream")


def layer_sizes(model):
    return {
        index: sum(weight.nbytes for weight in model.layer(index).state_dict().values())
        for index in range(model.layer_count)
    }


def test_a_resident_model_is_not_streamed(folder):
    with pytest.raises(ModelError, match="in memory as a whole"):
        streaming(load_model(str(folder), memory="resident"))


def test_a_streamed_model_says_so(streamed, folder):
    assert streamed.streamed
    assert repr(streamed).endswith("llama, 4 layers, streamed)")
    assert (str(streamed.device), streamed.dtype, streamed.attention) == ("cpu", "float32", "sdpa")
    resident = load_model(str(folder))
    assert not resident.streamed
    assert repr(resident).endswith("llama, 4 layers)")


@pytest.mark.parametrize(
    ("share", "streamed"),
    [(0.95, True), (0.85, False)],
)
def test_a_model_larger_than_free_memory_is_streamed(share, streamed, folder, monkeypatch, caplog):
    needed = weight_bytes(find_checkpoint(str(folder)), "bfloat16")
    monkeypatch.setattr("neuroscope.extraction.models.free_memory", lambda device: needed / share)
    assert load_model(str(folder), dtype="bfloat16").streamed == streamed
    assert ("read from their files one after the other" in caplog.text) == streamed
    assert not load_model(str(folder), memory="resident").streamed


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_those_of_the_loaded_weights(family, family_folder):
    model = load_model(str(family_folder(family)), memory="resident", dtype="float16")
    whole = sum(weight.nbytes for weight in model.module.parameters())
    assert weight_bytes(model.checkpoint, "float16") == whole


def test_missing_weights_are_refused_by_name(folder, tmp_path):
    def without(weights):
        return {name: one for name, one in weights.items() if name != "layers.1.mlp.up_proj.weight"}

    path = rewritten(folder, tmp_path, without)
    with pytest.raises(ModelError, match=r"do not fit.*: layers\.1\.mlp\.up_proj\.weight\)"):
        load_model(path, memory="stream")


def test_weights_of_another_shape_are_refused_by_name(folder, tmp_path):
    def cut(weights):
        return weights | {"norm.weight": torch.ones(3)}

    with pytest.raises(ModelError, match=r"do not fit.*: norm\.weight\)"):
        load_model(rewritten(folder, tmp_path, cut), memory="stream")


def test_weights_in_a_format_of_whole_numbers_are_refused(folder, tmp_path):
    def rounded(weights):
        return weights | {"norm.weight": weights["norm.weight"].to(torch.int8)}

    with pytest.raises(ModelError, match=r"norm\.weight is stored as I8"):
        load_model(rewritten(folder, tmp_path, rounded), memory="stream")


def test_quantised_weights_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"cannot be streamed.*quantised.*memory='resident'"):
        load_model(str(tmp_path), memory="stream")


@pytest.mark.parametrize("memory", ["stream", "auto"])
def test_a_damaged_file_is_told(memory, folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"cannot be loaded: .*model\.safetensors cannot be read"):
        load_model(str(tmp_path), memory=memory)


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        (None, "holds neither"),
        ("[]", "holds neither"),
        ('{"weight_map": {"norm.weight": "gone.safetensors"}}', "gone.safetensors cannot be read"),
    ],
)
def test_a_missing_shard_or_index_is_told(index, fault, folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    if index:
        (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=f"cannot be loaded: .*{fault}"):
        load_model(str(tmp_path), memory="stream")


@pytest.mark.parametrize("memory", ["auto", "resident", "stream"])
def test_a_device_that_is_not_there_is_told(memory, folder):
    with pytest.raises(ModelError, match=r"device 'cuda:99' cannot be used.*choose cpu"):
        load_model(str(folder), device="cuda:99", memory=memory)


def test_unknown_ways_to_hold_a_model_are_refused(folder):
    with pytest.raises(
        ModelError, match="unknown memory 'disk': it is one of auto, resident, stream"
    ):
        load_model(str(folder), memory="disk")
