"""Tokens of prompts: truncation, special tokens in a text, and tokens without an embedding."""

import json
import shutil

import numpy as np
import pytest
from models import FAMILIES, make_tokenizer
from test_tokenizers import change_settings, tokens_of
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer

from neuroscope.errors import PromptError
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.prompts import Prompt


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("source", ["tokenizer_config.json", "tokenizer.json"])
def test_prompts_are_cut_on_the_side_that_the_tokenizer_names(
    family_folder, tmp_path, source, side
):
    folder = shutil.copytree(family_folder("bert"), tmp_path / "copy")
    if source == "tokenizer.json":
        fast = Tokenizer.from_file(str(folder / source))
        fast.enable_truncation(8, direction=side)
        fast.save(str(folder / source))
    else:
        change_settings(folder, truncation_side=side)
    words = ["dog", *["cat"] * 70, "queen"]
    texts = tokens_of(folder, " ".join(words), truncate=True)[0]
    kept = words[:62] if side == "right" else words[-62:]
    assert texts == ["[CLS]", *kept, "[SEP]"]
    reference = AutoTokenizer.from_pretrained(folder)
    ids = reference(" ".join(words), truncation=True, max_length=64)["input_ids"]
    assert texts == reference.convert_ids_to_tokens(ids)


def test_the_truncation_and_padding_of_tokenizer_json_have_no_effect(family_folder, tmp_path):
    folder = shutil.copytree(family_folder("bert"), tmp_path / "copy")
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    fast.enable_truncation(4)
    fast.enable_padding(length=32, pad_id=0, pad_token="[PAD]")
    fast.save(str(folder / "tokenizer.json"))
    change_settings(folder, model_max_length=4)
    model = load_model(str(folder))
    assert model.vocabulary.special == load_model(str(family_folder("bert"))).vocabulary.special
    assert tokens_of(folder, "the black cat sits", truncate=True)[0] == (
        ["[CLS]", "the", "black", "cat", "sits", "[SEP]"]
    )


@pytest.mark.parametrize("split", [True, False])
def test_special_tokens_in_a_text_are_split_if_the_tokenizer_says_so(
    family_folder, tmp_path, split
):
    folder = shutil.copytree(family_folder("bert"), tmp_path / "copy")
    change_settings(folder, split_special_tokens=split)
    middle = ["[UNK]"] * 3 if split else ["[SEP]"]
    assert tokens_of(folder, "the [SEP] cat")[0] == ["[CLS]", "the", *middle, "cat", "[SEP]"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_without_an_embedding_is_refused(family_folder, tmp_path, family):
    folder = shutil.copytree(family_folder(family), tmp_path / "copy")
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = fast.get_vocab_size()
    fast.add_tokens([AddedToken("<extra>", normalized=False)])
    fast.save(str(folder / "tokenizer.json"))
    model = load_model(str(folder))
    extract(model, ["the cat"], "resid_post", 0)
    with pytest.raises(PromptError) as raised:
        extract(model, ["the cat", "the <extra> cat"], "resid_post", 0)
    problem = raised.value.problem
    assert all(text in problem for text in ("number 2", "the <extra> cat", "'<extra>'", str(size)))


def test_a_vocabulary_may_have_holes(family_folder, tmp_path):
    folder = shutil.copytree(family_folder("bert"), tmp_path / "copy")
    spec = json.loads((folder / "tokenizer.json").read_text())
    last = max(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
    size = len(spec["model"]["vocab"])
    for word in ("the", "cat"):
        del spec["model"]["vocab"][word]
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    model = load_model(str(folder))
    assert len(model.vocabulary.texts) == size
    block = tokenise(model, [Prompt("0", f"dog {last}")])
    assert block[0].texts == ("[CLS]", "dog", last, "[SEP]")
    np.testing.assert_array_equal(block.unknown, False)


def test_a_tokenizer_of_another_kind_than_the_family_has_is_read_as_it_is(family_folder, tmp_path):
    folder = shutil.copytree(family_folder("qwen2"), tmp_path / "model")
    make_tokenizer("llama").backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    assert tokens_of(folder, "the cat sits") == [["<s>", "the", "cat", "sits"]]
