"""Weights that would be read wrongly or dropped are refused in both memory modes, others pass."""

import json
import logging

import pytest
import torch
from models import FAMILIES, copy_with_config, copy_with_weights, make_model
from safetensors.torch import load_file, save_file
from streamed import assert_close, read

from neuroscope.errors import ModelError
from neuroscope.extraction.models import load_model
from neuroscope.studies.compare.experiment import compare_experiment
from neuroscope.studies.compare.study import compare, run_comparison
from neuroscope.studies.layers.study import layers

MODES = ("resident", "stream")
DOWN = "layers.0.mlp.down_proj.weight"
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def with_weights(*names, shape=(32,), dtype=torch.float32):
    """Return a function that adds weights."""
    added = {name: torch.ones(shape, dtype=dtype) for name in names}
    return lambda weights: weights | added


def renamed(pattern):
    """Return a function that writes all names into a pattern."""
    return lambda weights: {pattern.format(name): value for name, value in weights.items()}


def as_float8(weights):
    """Return the weights with projections in float8, and their scales."""
    coded = dict(weights)
    for name in [name for name in weights if "_proj" in name]:
        scale = weights[name].abs().max() / 448
        coded[name] = (weights[name] / scale).to(torch.float8_e4m3fn)
        coded[f"{name}_scale_inv"] = scale.reshape(1, 1)
    return coded


def stored_as(dtype):
    """Return a function that stores one projection as numbers of another format."""
    return lambda weights: weights | {DOWN: weights[DOWN].to(dtype)}


def refuse(folder, pattern, **options):
    """Fail unless both memory modes refuse a model with the same error."""
    problems = []
    for memory in MODES:
        with pytest.raises(ModelError, match=pattern) as raised:
            load_model(str(folder), memory=memory, **options)
        problems.append(raised.value.problem)
    assert problems[0] == problems[1]


UNKNOWN_FORMATS = [
    ({"quantization_config": {"quant_method": "modelopt"}}, "'modelopt'.*F8_E4M3"),
    ({"quantization_config": {"bits": 8}}, "'None'.*F8_E4M3"),
    ({"quantization_config": {}}, "quantization_config.*F8_E4M3"),
    ({"quantization_config": "fp8"}, "quantization_config"),
    ({"quantization_config": {"quant_method": "bitsandbytes"}}, "'bitsandbytes'.*F8_E4M3"),
    ({"quantization": {"group_size": 64, "bits": 8}}, "quantization of config.*F8_E4M3"),
    ({"compression_config": {"format": "float-quantized"}}, "compression_config.*F8_E4M3"),
    ({"quantization_config": None}, rf"{DOWN} is stored as F8_E4M3"),
    ({}, rf"{DOWN} is stored as F8_E4M3"),
]


@pytest.mark.parametrize(("entries", "pattern"), UNKNOWN_FORMATS, ids=str)
def test_formats_that_transformers_does_not_decode_are_refused(
    entries, pattern, family_folder, tmp_path
):
    coded = copy_with_weights(family_folder("llama"), tmp_path / "coded", as_float8)
    refuse(copy_with_config(coded, tmp_path / "model", **entries), pattern)


@pytest.mark.parametrize("file", ["hf_quant_config.json", "quantize_config.json"])
def test_a_quantisation_described_in_another_file_is_refused(file, family_folder, tmp_path):
    folder = copy_with_weights(family_folder("llama"), tmp_path, as_float8)
    (folder / file).write_text('{"quantization": {"quant_algo": "FP8"}}')
    refuse(folder, f"{file}.*F8_E4M3")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int8, "I8"), (torch.uint8, "U8"), (torch.int32, "I32"), (torch.float8_e5m2, "F8_E5M2")],
)
def test_numbers_of_other_formats_are_refused(dtype, name, family_folder, tmp_path):
    refuse(copy_with_weights(family_folder("llama"), tmp_path, stored_as(dtype)), f"{DOWN}.*{name}")


def test_packed_weights_without_a_method_are_refused(family_folder, tmp_path):
    def packed(weights):
        parts = {name: weight for name, weight in weights.items() if name != DOWN}
        return parts | {f"{DOWN}_packed": weights[DOWN].to(torch.int32)}

    folder = copy_with_weights(family_folder("llama"), tmp_path, packed)
    refuse(folder, f"{DOWN}_packed.*I32")


@pytest.mark.parametrize(
    ("change", "entries", "pattern"),
    [
        (dict, FP8, "'fp8'.*F32"),
        (dict, {"quant_method": "gguf"}, "'gguf'.*F32"),
        (dict, {"load_in_4bit": True}, "'bitsandbytes'.*F32"),
        (stored_as(torch.float8_e4m3fn), FP8, rf"{DOWN} is stored as F8_E4M3, without a scale"),
        (lambda weights: as_float8(weights) | stored_as(torch.int8)(weights), FP8, "I8.*'fp8'"),
        (lambda weights: as_float8(weights) | {DOWN: weights[DOWN][:3]}, FP8, DOWN),
    ],
)
def test_a_method_that_the_weights_contradict_is_refused(
    change, entries, pattern, family_folder, tmp_path
):
    coded = copy_with_weights(family_folder("llama"), tmp_path / "coded", change)
    folder = copy_with_config(coded, tmp_path / "model", quantization_config=entries)
    with pytest.raises(ModelError, match=pattern):
        load_model(str(folder), memory="resident")


def test_a_format_that_transformers_decodes_is_loaded_and_not_streamed(
    family_folder, tmp_path, caplog
):
    source = family_folder("llama")
    coded = copy_with_weights(source, tmp_path / "coded", as_float8)
    folder = copy_with_config(coded, tmp_path / "model", quantization_config=FP8)
    weight = load_model(str(folder)).module.get_parameter(DOWN)
    expected = load_model(str(source)).module.get_parameter(DOWN)
    torch.testing.assert_close(weight, expected, atol=0.05, rtol=0.1)
    assert any("FP8" in record.message for record in caplog.records)
    with pytest.raises(ModelError, match="quantization_config") as raised:
        load_model(str(folder), memory="stream")
    assert [option.in_python for option in raised.value.options] == ["memory='resident'"]


@pytest.mark.parametrize("memory", MODES)
def test_null_means_not_quantised(memory, family_folder, tmp_path):
    source = family_folder("llama")
    folder = copy_with_config(source, tmp_path, quantization_config=None, quantization=None)
    assert_close(read(load_model(str(folder), memory=memory)), read(load_model(str(source))), 0)


BERT, LLAMA = "encoder.layer.0.attention", "layers.0.self_attn"
UNUSED = [
    ("bert", [f"{BERT}.self.distance_embedding.weight"], 1),
    ("bert", [f"{BERT}.adapter.down.weight", f"{BERT}.adapter.up.weight"], 2),
    ("bert", [f"encoder.layer.{index}.output.dense.weight" for index in range(2, 7)], 5),
    ("bert", ["embeddings_project.weight"], 1),
    ("distilbert", ["transformer.layer.0.ffn.lin3.weight"], 1),
    ("roberta", ["encoder.relative_attention_bias.weight"], 1),
    ("gpt2", ["h.0.crossattention.c_attn.weight", "h.0.attn.q_norm.weight"], 2),
    ("llama", [f"{LLAMA}.q_norm.weight", f"{LLAMA}.k_norm.weight"], 2),
    ("llama", [f"{LLAMA}.q_proj.lora_A.weight", f"{LLAMA}.q_proj.lora_B.weight"], 2),
    ("llama", [f"{LLAMA}.q_proj.base_layer.weight"], 1),
    ("llama", [f"{LLAMA}.q_proj.bias", f"{LLAMA}.o_proj.bias"], 2),
    ("llama", [f"{LLAMA}.attn.bias"], 1),
    ("llama", ["multi_head_gate.weight", f"{LLAMA}.k_proj.ia3_l"], 2),
    ("mistral", [f"layers.0.mlp.experts.{index}.w1.weight" for index in range(8)], 8),
    ("qwen2", ["norm.bias"], 1),
]


@pytest.mark.parametrize("pattern", ["{}", "model.{}", "0.auto_model.{}"])
@pytest.mark.parametrize(("family", "names", "count"), UNUSED)
def test_weights_that_the_model_does_not_use_are_refused_with_their_names(
    family, names, count, pattern, family_folder, tmp_path
):
    def change(weights):
        return renamed(pattern)(with_weights(*names)(weights))

    folder = copy_with_weights(family_folder(family), tmp_path, change)
    refuse(folder, rf"\b{count} of its weights.*\({sorted(names)[0]}")


def test_weights_of_a_lora_are_refused_with_the_advice_to_merge_it(family_folder, tmp_path):
    change = with_weights(f"{LLAMA}.q_proj.lora_A.default.weight")
    folder = copy_with_weights(family_folder("llama"), tmp_path, change)
    with pytest.raises(ModelError, match="lora_A") as raised:
        load_model(str(folder))
    assert "merge_and_unload" in raised.value.remedy


def test_a_weight_with_two_names_is_refused(family_folder, tmp_path):
    folder = copy_with_weights(
        family_folder("bert"), tmp_path, with_weights("embeddings.LayerNorm.gamma")
    )
    refuse(folder, r"LayerNorm\.gamma and embeddings\.LayerNorm\.weight")


def test_two_models_in_one_file_are_refused(family_folder, tmp_path):
    def towers(weights):
        copies = {name: weight.clone() for name, weight in weights.items()}
        return renamed("query.{}")(weights) | renamed("passage.{}")(copies)

    refuse(copy_with_weights(family_folder("bert"), tmp_path, towers), r"query\.|passage\.")


HARMLESS = [
    ("bert", ["pooler.extra.bias", "cls.predictions.bias", "cls.seq_relationship.weight"]),
    ("bert", ["embeddings.position_ids", "classifier.weight", "qa_outputs.weight"]),
    ("roberta", ["lm_head.bias", "classifier.dense.weight", "embeddings.token_type_ids"]),
    ("distilbert", ["vocab_projector.bias", "vocab_transform.weight", "pre_classifier.weight"]),
    ("gpt2", ["h.0.attn.bias", "h.0.attn.masked_bias", "score.weight", "v_head.summary.weight"]),
    ("llama", ["rotary_emb.inv_freq", f"{LLAMA}.rotary_emb.inv_freq", "score.weight"]),
    ("qwen2", ["lm_head.weight", "value_head.0.num_batches_tracked", "linear.weight"]),
]


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("pattern", ["{}", "0.auto_model.{}"])
@pytest.mark.parametrize(("family", "names"), HARMLESS)
def test_heads_and_computed_buffers_pass(family, names, pattern, memory, family_folder, tmp_path):
    def change(weights):
        return renamed(pattern)(with_weights(*names, dtype=torch.uint8)(weights))

    source = family_folder(family)
    folder = copy_with_weights(source, tmp_path, change)
    assert_close(read(load_model(str(folder), memory=memory)), read(load_model(str(source))), 0)


@pytest.mark.parametrize("pattern", ["{}", "module.{}"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_a_head_has_the_same_values_under_any_prefix(family, pattern, tmp_path):
    source = make_model(family, tmp_path / "source", head=True)
    folder = copy_with_weights(source, tmp_path / "model", renamed(pattern))
    expected = load_model(str(source), head=True)
    model = load_model(str(folder), head=True)
    ids = torch.arange(5)[None]
    torch.testing.assert_close(model.module(ids).logits, expected.module(ids).logits)
    for memory in MODES:
        assert_close(read(load_model(str(folder), memory=memory)), read(expected), 0)


@pytest.mark.parametrize(
    ("family", "name"),
    [("llama", "lm_head.bias"), ("llama", "lm_head.lora_A.weight"), ("bert", "cls.own.weight")],
)
def test_unused_weights_of_the_head_are_refused_with_the_head(
    family, name, family_folder, tmp_path
):
    source = family_folder(family, head=True)
    folder = copy_with_weights(source, tmp_path, with_weights(name))
    load_model(str(folder))
    with pytest.raises(ModelError, match=name):
        load_model(str(folder), head=True)


def test_warnings_of_transformers_are_logged_once_per_model(family_folder, tmp_path, caplog):
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "unknown_key": 1}
    folder = copy_with_config(family_folder("llama"), tmp_path, rope_parameters=rope)
    for memory in MODES:
        caplog.clear()
        load_model(str(folder), memory=memory)
        (record,) = caplog.records
        assert (record.name, record.levelname) == ("neuroscope", "WARNING")
        assert "unknown_key" in record.message and str(folder) in record.message


def test_an_entry_that_scaled_rotary_positions_follow_is_not_logged(
    family_folder, tmp_path, caplog
):
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    entries = {"original_max_position_embeddings": 16, "rope_parameters": rope}
    load_model(str(copy_with_config(family_folder("llama"), tmp_path, **entries)))
    assert caplog.records == []


def test_warnings_about_values_are_notes_of_results_even_from_the_store(
    family_folder, tmp_path, database, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("neuroscope"), "level", logging.ERROR)  # logs nothing
    folder = str(copy_with_config(family_folder("llama"), tmp_path, attention_gain=2.0))
    prompts = ["the cat sits", "the dog sits", "a boy", "a girl runs"]
    model = load_model(folder)
    results = [compare(model, prompts[:2]), layers(model, prompts, probes=False)]
    experiment = compare_experiment([folder], {"texts": prompts[:2]})
    for _ in range(2):
        results += run_comparison(experiment)
    assert ["attention_gain" in " ".join(result.notes) for result in results] == [True] * 4


def test_entries_that_transformers_ignores_are_logged(family_folder, tmp_path, caplog):
    entries = {"norm_type": "batch", "attention_gain": 2.0, "unsloth_version": "1", "stride": None}
    load_model(str(copy_with_config(family_folder("llama"), tmp_path, **entries)))
    (record,) = caplog.records
    assert record.name == "neuroscope" and "attention_gain, norm_type)" in record.message
    assert "architectures" not in record.message


@pytest.mark.parametrize("name", ["LlamaBidirectionalModel", "GemmaForCausalLM"])
def test_an_architecture_of_another_kind_is_logged(name, family_folder, tmp_path, caplog):
    entries = {"architectures": [name]}
    load_model(str(copy_with_config(family_folder("llama"), tmp_path, **entries)))
    (record,) = caplog.records
    assert name in record.message


@pytest.mark.parametrize("same", [True, False])
def test_a_weight_in_two_files_has_one_value(same, tmp_path):
    folder = make_model("llama", tmp_path, shard_size="20KB")
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    (name, values), *_ = load_file(first).items()
    stale = load_file(second) | {name: values if same else values + 1}
    save_file(stale, second, metadata={"format": "pt"})
    if same:
        assert_close(*(read(load_model(str(folder), memory=mode)) for mode in MODES))
    else:
        refuse(folder, rf"{first.name}.*{second.name}.*{name}")


@pytest.mark.parametrize("family", FAMILIES)
def test_harmless_messages_and_entries_are_left_out(family, family_folder, tmp_path, caplog):
    entries = {"torch_dtype": "float16", "num_labels": 3, "id2label": {"0": "a"}, "n_ctx": 64}
    entries |= {"task_specific_params": {"a": 1}, "do_sample": True, "max_length": 20, "top_k": 50}
    entries |= {"_name_or_path": "a/b", "pooler_type": "first_token_transform", "is_causal": None}
    entries |= {"gradient_checkpointing": True, "tokenizer_class": "A", "sep_token_id": 3}
    folder = copy_with_config(family_folder(family, head=True), tmp_path, **entries)
    (folder / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6}')
    for options in ({"memory": "resident"}, {"memory": "stream"}, {"head": True}):
        load_model(str(folder), **options)
    assert caplog.records == []


@pytest.mark.parametrize(
    "entries",
    [{"hidden_act": "no"}, {"rope_scaling": {"type": "no"}}, {"rope_scaling": {"type": "yarn"}}],
    ids=str,
)
def test_entries_that_transformers_cannot_use_are_refused(entries, family_folder, tmp_path):
    refuse(copy_with_config(family_folder("llama"), tmp_path, **entries), str(tmp_path))


def test_both_modes_ignore_the_attention_that_the_configuration_asks_for(family_folder, tmp_path):
    source = family_folder("llama")
    entries = {"attn_implementation": "flash_attention_2", "output_hidden_states": True}
    folder = copy_with_config(source, tmp_path, **entries)
    for memory in MODES:
        model = load_model(str(folder), memory=memory)
        assert model.attention == "sdpa"
        assert json.loads((folder / "config.json").read_text()) == model.checkpoint.config
        assert_close(read(model), read(load_model(str(source))), 0)
