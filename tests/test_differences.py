"""Differences between two checkpoints, in words and as numbers, of models with planted changes."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from models import auto_class_with_head, copy_with_config, copy_with_weights, make_model
from safetensors.torch import load_file

from neuroscope.errors import ModelError
from neuroscope.extraction import weight_differences
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.extraction.differences import compare_checkpoints
from neuroscope.extraction.tensor_pairs import TensorPair
from neuroscope.extraction.weights import StoredTensor

DOWN = "layers.1.mlp.down_proj.weight"
PROJECTIONS = [f"layers.{layer}.self_attn.{name}_proj.weight" for layer in (0, 1) for name in "qv"]


def compare(base, candidate, **options):
    """Return the differences between the models of two folders."""
    return compare_checkpoints(*map(find_checkpoint, map(str, (base, candidate))), **options)


def changed(folder, copy, change):
    """Return a copy of a model with other weights; `change` maps the weights that it replaces."""
    return copy_with_weights(folder, copy, lambda weights: weights | change(weights))


def norms(differences):
    """Return the relative norm of each part."""
    return {part.part: part.relative_norm for part in differences.parts}


def noise(weight, scale=0.01):
    """Return random numbers in the shape of a weight."""
    return scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))


def norm(*tensors):
    """Return the Frobenius norm of all values of some tensors, with NumPy in float64."""
    return np.sqrt(sum(np.square(tensor.double().numpy()).sum() for tensor in tensors))


def test_a_tensor_of_one_number_has_a_size():
    scale = StoredTensor(Path("model.safetensors"), 0, 4, (), "F32", (0, 0, 0))
    assert TensorPair(scale, scale, rows=1).size == 4


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "distilbert"])
def test_a_copy_is_identical(family, family_folder, tmp_path):
    copy = shutil.copytree(family_folder(family), tmp_path / "copy")
    differences = compare(family_folder(family), copy)
    assert differences.identical and differences.same_tokens
    assert differences.kind == ("identical",)
    parts = ["embeddings", 0, 1, *({"llama": ["final"], "gpt2": ["final"]}.get(family, []))]
    assert [part for part in norms(differences) if part != "head"] == parts
    assert set(norms(differences).values()) == {0.0}


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_to_the_same_file_are_not_read(link, family_folder, tmp_path):
    copy = shutil.copytree(family_folder("llama"), tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    link(family_folder("llama") / "model.safetensors", copy / "model.safetensors")
    reports = []
    assert compare(family_folder("llama"), copy, progress=lambda *report: reports.append(report))
    assert reports == []


@pytest.mark.parametrize("piece", [64, 2**26])
def test_the_norm_of_a_change_is_exact_and_other_layers_are_untouched(
    piece, family_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(weight_differences, "_PIECE", piece)
    folder, reports = family_folder("llama"), []
    copy = changed(folder, tmp_path, lambda weights: {DOWN: weights[DOWN] + noise(weights[DOWN])})
    differences = compare(folder, copy, progress=lambda *report: reports.append(report))
    old, new = (load_file(path / "model.safetensors") for path in (folder, copy))
    layer = [weight for name, weight in old.items() if name.startswith("layers.1.")]
    change = norm(new[DOWN].double() - old[DOWN].double())
    assert norms(differences) == {
        "embeddings": 0.0,
        0: 0.0,
        1: pytest.approx(change / norm(*layer), rel=1e-12),
        "final": 0.0,
    }
    (tensor,) = [tensor for tensor in differences.tensors if tensor.change != "equal"]
    assert (tensor.name, tensor.part, tensor.change) == (DOWN, 1, "changed")
    assert tensor.change_norm == pytest.approx(change, rel=1e-12)
    assert tensor.relative_norm == pytest.approx(change / norm(old[DOWN]), rel=1e-12)
    assert differences.kind == ("embeddings, layer 0, final norm untouched; layer 1 changed",)
    assert not differences.identical and differences.same_tokens
    part = differences.parts[2]
    assert (part.equal, part.converted, part.changed, part.unpaired) == (8, 0, 1, 0)
    assert reports[-1] == ("measure differences", 1, 1)
    task, done, total = reports[-2]
    assert (task, done) == ("compare weights", total)
    assert total >= sum(weight.nbytes for weight in old.values()) / piece


def test_a_change_of_a_weight_that_is_zero_has_no_relative_norm_of_its_own(family_folder, tmp_path):
    name = "encoder.layer.0.output.dense.bias"
    copy = changed(
        family_folder("bert"), tmp_path, lambda weights: {name: torch.ones_like(weights[name])}
    )
    differences = compare(family_folder("bert"), copy)
    (tensor,) = [tensor for tensor in differences.tensors if tensor.change != "equal"]
    assert (tensor.base_norm, tensor.relative_norm) == (0.0, None)
    assert tensor.change_norm == pytest.approx(np.sqrt(32))
    assert norms(differences)[0] > 0 and norms(differences)[1] == 0


def test_a_copy_in_another_number_format_is_converted(family_folder, tmp_path):
    def rounded(weights):
        return {name: weight.bfloat16() for name, weight in weights.items()}

    half = changed(family_folder("llama"), tmp_path / "half", rounded)
    differences = compare(family_folder("llama"), half)
    assert differences.kind == ("only the number format differs (F32 to BF16)",)
    assert not differences.identical
    assert {tensor.change for tensor in differences.tensors} == {"converted"}
    assert all(0 < norms(differences)[part] < 2**-8 for part in ("embeddings", 0, 1))
    back = compare(half, family_folder("llama"))
    assert {back.parts[1].converted, back.parts[1].changed} == {2, 7}  # norms are 1 in both formats
    single = changed(
        half, tmp_path / "single", lambda w: {name: weight.float() for name, weight in w.items()}
    )
    upcast = compare(half, single)
    assert upcast.kind == ("only the number format differs (BF16 to F32)",)
    assert set(norms(upcast).values()) == {0.0}


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_added_tokens_are_counted_and_common_rows_are_compared(family, family_folder, tmp_path):
    from transformers import AutoTokenizer

    folder = family_folder(family, head=True)
    model = auto_class_with_head(family).from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    count = len(tokenizer)
    tokenizer.add_tokens(["<tool>", "<call>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    differences = compare(folder, tmp_path)
    assert differences.tokenizer.first_added == ("<tool>", "<call>")
    assert (differences.tokenizer.added, differences.tokenizer.removed) == (2, 0)
    assert [(entry.key, entry.base, entry.candidate) for entry in differences.configuration] == [
        ("vocab_size", count, count + 2)
    ]
    assert "2 tokens added" in differences.kind
    table = {"llama": "embed_tokens", "bert": "embeddings.word_embeddings"}[family]
    assert f"{table}.weight: {count} to {count + 2} rows" in differences.kind
    assert set(norms(differences).values()) == {0.0}
    assert not differences.same_tokens and not differences.identical
    assert compare(tmp_path, folder).tokenizer.first_removed == ("<tool>", "<call>")


def test_a_low_rank_update_is_named_with_its_rank(family_folder, tmp_path):
    def merged(weights):
        random = torch.Generator().manual_seed(0)
        updates = {}
        for name in PROJECTIONS:
            rows, columns = weights[name].shape
            left = torch.linalg.qr(torch.randn(rows, 3, generator=random)).Q
            right = torch.linalg.qr(torch.randn(columns, 3, generator=random)).Q
            updates[name] = weights[name] + left @ right.T  # three equal singular values
        return updates

    copy = changed(family_folder("llama"), tmp_path / "merged", merged)
    differences = compare(family_folder("llama"), copy)
    assert [part.rank for part in differences.parts] == [None, 3, 3, None]
    assert differences.kind == (
        "embeddings, final norm untouched; layers 0-1 changed",
        "low-rank update (rank about 3) of self_attn.q_proj, self_attn.v_proj",
    )
    tuned = changed(copy, tmp_path / "tuned", lambda w: {DOWN: w[DOWN] + noise(w[DOWN])})
    differences = compare(family_folder("llama"), tuned)
    assert differences.kind == ("embeddings, final norm untouched; layers 0-1 changed",)


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        ({"layers": 3}, "configuration: num_hidden_layers (2 to 3)"),
        ({"intermediate_size": 64}, "configuration: intermediate_size (48 to 64)"),
        ({"hidden_size": 16}, "configuration: head_dim (8 to 4), hidden_size (32 to 16)"),
    ],
)
def test_models_of_other_shapes_are_compared(other, kind, family_folder, tmp_path):
    differences = compare(family_folder("llama"), make_model("llama", tmp_path, **other))
    assert not differences.identical and differences.same_tokens
    assert differences.kind[0] == kind
    if "layers" in other:
        assert "only in the candidate: layer 2 (9 tensors)" in differences.kind
        assert differences.parts[3].unpaired == 9 and differences.parts[3].relative_norm is None
    else:
        assert differences.kind[-1].startswith("other shapes: ")
        assert norms(differences)[0] is None


def test_models_of_other_families_are_compared(family_folder):
    differences = compare(family_folder("bert"), family_folder("llama"))
    assert differences.kind == ("other architecture (bert to llama)",)
    assert not differences.identical
    assert {tensor.change for tensor in differences.tensors} == {"removed", "added"}


def test_files_may_be_divided_differently(family_folder, tmp_path):
    shards = make_model("llama", tmp_path, shard_size="10KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    assert compare(family_folder("llama"), shards).identical


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_head_that_only_one_file_has_is_reported(family, family_folder, tmp_path):
    folder = family_folder(family, head=True)
    auto_class_with_head(family).from_pretrained(folder).base_model.save_pretrained(tmp_path)
    for file in folder.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    differences = compare(folder, tmp_path)
    only = {tensor.part for tensor in differences.tensors if tensor.change == "removed"}
    assert only == {"head"} and not differences.identical
    assert not differences.configuration
    assert {norm for part, norm in norms(differences).items() if part != "head"} == {0.0}
    assert differences.kind[1].startswith("only in the base: head (")


def test_a_tied_head_is_compared_whether_or_not_it_is_stored(tmp_path):
    folder = make_model("llama", tmp_path / "tied", head=True, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    table = "model.embed_tokens.weight"
    stored = changed(folder, tmp_path / "stored", lambda w: {"lm_head.weight": w[table].clone()})
    assert compare(folder, stored).identical and compare(stored, folder).identical
    untied = copy_with_config(
        changed(folder, tmp_path / "scaled", lambda w: {"lm_head.weight": 2 * w[table]}),
        tmp_path / "untied",
        tie_word_embeddings=False,
    )
    differences = compare(folder, untied)
    assert norms(differences) == {"embeddings": 0, 0: 0, 1: 0, "final": 0, "head": 1}
    body = copy_with_config(folder, tmp_path / "body", tie_word_embeddings=False)
    assert [tensor.name for tensor in compare(untied, body).tensors if not tensor.paired] == [
        "lm_head.weight"
    ]


def test_names_of_the_first_bert_files_and_stored_masks_make_no_difference(family_folder, tmp_path):
    def old(weights):
        names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        ids = {"embeddings.position_ids": torch.arange(64)[None]}
        for new, former in names.items():
            weights = {name.replace(new, former): weight for name, weight in weights.items()}
        return weights | ids

    first = copy_with_weights(family_folder("bert"), tmp_path / "bert", old)
    assert compare(family_folder("bert"), first).identical
    masked = changed(
        family_folder("gpt2"),
        tmp_path / "gpt2",
        lambda _: {"h.0.attn.bias": torch.ones(1, 1, 64, 64).tril()},
    )
    assert compare(masked, family_folder("gpt2")).identical


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(value, family_folder, tmp_path):
    def damaged(weights):
        weight = weights[DOWN].clone()
        weight[3, 5] = value
        return {DOWN: weight}

    copy = changed(family_folder("llama"), tmp_path, damaged)
    for base, candidate, side in (
        (family_folder("llama"), copy, "candidate"),
        (copy, family_folder("llama"), "base"),
    ):
        differences = compare(base, candidate)
        assert f"NaN or infinity in the {side}: {DOWN}" in differences.kind
        (tensor,) = [tensor for tensor in differences.tensors if tensor.change != "equal"]
        assert (tensor.nonfinite, tensor.change_norm, tensor.rank) == ((side,), None, None)
        assert norms(differences) == {"embeddings": 0, 0: 0, 1: None, "final": 0}


def test_quantised_weights_are_compared_without_a_norm(family_folder, tmp_path):
    def coded(scale):
        return lambda weights: {DOWN: (scale * weights[DOWN]).to(torch.float8_e4m3fn)}

    base = changed(family_folder("llama"), tmp_path / "base", coded(1))
    assert compare(base, shutil.copytree(base, tmp_path / "copy")).identical
    differences = compare(base, changed(family_folder("llama"), tmp_path / "other", coded(2)))
    assert differences.kind[1:] == (f"different values in quantised formats: {DOWN}",)
    assert norms(differences) == {"embeddings": 0, 0: 0, 1: None, "final": 0}


def test_damaged_and_vanished_files_are_refused(family_folder, tmp_path):
    copy = Path(shutil.copytree(family_folder("llama"), tmp_path / "copy"))
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        compare(family_folder("llama"), copy)
    (copy / "model.safetensors").write_bytes(whole)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        compare(family_folder("llama"), copy)
