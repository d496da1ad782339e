"""Tokenizers: their tokens are those of the model's files, or the model is refused."""

import json
import logging
import shutil
from dataclasses import replace

import pytest
from models import FAMILIES, make_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from neuroscope.errors import ModelError
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.extraction.models import load_model
from neuroscope.extraction.tokenizers import load_tokenizer
from neuroscope.prompts import Prompt, PromptSet

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CASED = [*SPECIAL, "Apple", "apple", "the", "cat", "##s", "é", "e", "."]


@pytest.fixture
def without_tokenizer(family_folder, tmp_path):
    """Return a function that copies a family's folder without the files of its tokenizer."""

    def copy(family, **files):
        folder = shutil.copytree(family_folder(family), tmp_path / family, dirs_exist_ok=True)
        for path in folder.iterdir():
            if path.name not in ("config.json", "model.safetensors"):
                path.unlink()
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name.replace("__", ".")).write_text(text)
        return folder

    return copy


def refusal(folder, **options):
    """Return the error of the load, after a check that it names the folder."""
    with pytest.raises(ModelError) as raised:
        load_tokenizer(replace(find_checkpoint(str(folder)), **options))
    assert str(folder) in raised.value.problem
    return raised.value.problem


def tokens_of(folder, *texts, **options):
    block = tokenise(load_model(str(folder)), PromptSet.of(texts).prompts, **options)
    return [list(tokens.texts) for tokens in block]


def encoded(folder, text):
    """Return the tokens of a text, which the model need not have embeddings for."""
    return load_tokenizer(find_checkpoint(str(folder))).backend_tokenizer.encode(text).tokens


def cased_bert(**changes):
    """Return a tokenizer of BERT's kind that keeps capital letters."""
    fast = Tokenizer(
        models.WordPiece({word: id for id, word in enumerate(CASED)}, unk_token="[UNK]")
    )
    fast.normalizer = normalizers.BertNormalizer(**{"lowercase": False} | changes)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.add_special_tokens(SPECIAL)
    frame = [("[CLS]", 2), ("[SEP]", 3)]
    fast.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=frame)
    return fast


HALF_FILLED = [
    {},
    {"tokenizer_config__json": {"do_lower_case": True}},
    {"tokenizer_config__json": {"tokenizer_class": "BertTokenizer"}},
    {"special_tokens_map__json": {"unk_token": "[UNK]"}},
    {"added_tokens__json": {"foo": 42}},
    {"merges__txt": "#version: 0.2\nt h\n"},
    {"vocab__json": {"the": 0}},
    {"tokenizer__model": "not SentencePiece"},
]


@pytest.mark.parametrize("files", HALF_FILLED, ids=lambda files: "".join(files) or "none")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_without_a_vocabulary_holds_no_tokenizer(without_tokenizer, family, files):
    problem = refusal(without_tokenizer(family, **files))
    assert "no tokenizer" in problem
    assert all(name in problem for name in ("tokenizer.json", "vocab.txt", "merges.txt"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_of_another_class_is_not_replaced_by_an_invented_one(
    without_tokenizer, family
):
    files = {"vocab__txt": "[UNK]\nthe\n"}
    if family in ("bert", "distilbert"):
        files = {"vocab__json": {"the": 0}, "merges__txt": "#version: 0.2\n"}
    refusal(without_tokenizer(family, **files))


@pytest.mark.parametrize(
    "files",
    [
        {"vocab__txt": ""},
        {"tokenizer__json": ""},
        {"tokenizer__json": "version https://git-lfs"},
        {"vocab__txt": "[UNK]\nthe\n", "tokenizer_config__json": "{"},
        {"vocab__txt": "[UNK]\nthe\n", "tokenizer_config__json": []},
        {"vocab__txt": "[UNK]\nthe\n", "tokenizer_config__json": {"truncation_side": "middle"}},
    ],
)
def test_an_empty_or_damaged_tokenizer_is_refused(without_tokenizer, files):
    refusal(without_tokenizer("bert", **files))


def test_an_empty_vocabulary_is_refused(without_tokenizer):
    fast = make_tokenizer("llama").backend_tokenizer
    spec = json.loads(fast.to_str())
    spec["model"]["vocab"], spec["added_tokens"], spec["post_processor"] = {}, [], None
    assert "empty" in refusal(without_tokenizer("llama", tokenizer__json=spec))


def test_a_separate_folder_without_a_tokenizer_is_refused(family_folder, tmp_path):
    checkpoint = replace(find_checkpoint(str(family_folder("bert"))), tokenizer_folder=tmp_path)
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_model(checkpoint)


@pytest.mark.parametrize("settings", [None, {}, {"tokenizer_class": "BertTokenizer"}])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_capitals_are_kept_as_in_tokenizer_json(without_tokenizer, family, settings):
    files = {"tokenizer__json": json.loads(cased_bert().to_str())}
    if settings is not None:
        files["tokenizer_config__json"] = settings
    folder = without_tokenizer(family, **files)
    texts = tokens_of(folder, "Apple apple the cats é [MASK]")[0]
    assert texts == ["[CLS]", "Apple", "apple", "the", "cat", "##s", "é", "[MASK]", "[SEP]"]
    tokens = tokenise(load_model(str(folder)), [Prompt("0", "the zebra")])[0]
    assert tokens.special == (True, False, False, True)  # though no file names [CLS] and [SEP]
    assert tokens.unknown == (False, False, True, False)


@pytest.mark.parametrize(
    ("family", "name"), [("roberta", "RobertaTokenizer"), ("gpt2", "GPT2Tokenizer")]
)
def test_the_prefix_space_is_that_of_tokenizer_json(without_tokenizer, family, name):
    fast = make_tokenizer("gpt2").backend_tokenizer
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    files = {"tokenizer__json": json.loads(fast.to_str())}
    folder = without_tokenizer(family, **files, tokenizer_config__json={"tokenizer_class": name})
    assert encoded(folder, "cat") == fast.encode("cat").tokens == ["Ġcat"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "name",
    ["BertTokenizer", "RobertaTokenizer", "Qwen2Tokenizer", "LlamaTokenizer", "GPT2Tokenizer"],
)
def test_the_tokens_are_those_of_tokenizer_json_whatever_the_class(
    family_folder, tmp_path, family, name
):
    folder = shutil.copytree(family_folder(family), tmp_path / "copy")
    change_settings(folder, tokenizer_class=name)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = ["the black cat.", "Unknown wörds, <s> [SEP]!", " two  spaces "]
    assert tokens_of(folder, *texts) == [reference.encode(text).tokens for text in texts]


def change_settings(folder, **values):
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(settings | values))


@pytest.mark.parametrize(
    ("changes", "name", "stated"),
    [
        ({}, "do_lower_case", True),
        ({"lowercase": True}, "do_lower_case", False),
        ({"strip_accents": True}, "strip_accents", False),
        ({}, "strip_accents", True),
        ({}, "tokenize_chinese_chars", False),
        ({"handle_chinese_chars": False}, "tokenize_chinese_chars", True),
    ],
)
def test_settings_that_contradict_tokenizer_json_are_refused(
    without_tokenizer, changes, name, stated
):
    spec = json.loads(cased_bert(**changes).to_str())
    folder = without_tokenizer("bert", tokenizer__json=spec)
    change_settings(folder, **{name: stated})
    problem = refusal(folder)
    assert name in problem and str(stated) in problem and str(not stated) in problem
    change_settings(folder, **{name: not stated})
    load_tokenizer(find_checkpoint(str(folder)))


def test_another_tokenizer_file_is_refused(family_folder, tmp_path):
    folder = shutil.copytree(family_folder("llama"), tmp_path / "model")
    change_settings(folder, fast_tokenizer_files=["tokenizer.4.0.0.json"])
    assert "fast_tokenizer_files" in refusal(folder)


def test_a_tokenizer_that_fails_is_a_fault_of_the_model(without_tokenizer):
    folder = without_tokenizer("llama")
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "the": 1, "cat": 2}, unk_token="<none>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    assert tokens_of(folder, "the cat") == [["the", "cat"]]
    with pytest.raises(ModelError, match=str(folder)):
        tokens_of(folder, "the dog")


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_a_prefix_space_that_contradicts_tokenizer_json_is_refused(family_folder, tmp_path, family):
    folder = shutil.copytree(family_folder(family), tmp_path / "copy")
    change_settings(folder, add_prefix_space=True)
    assert "add_prefix_space" in refusal(folder)
    change_settings(folder, add_prefix_space=False)
    assert tokens_of(folder, "cat")[0] != ["Ġcat"]


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("stated", [True, False])
def test_the_prefix_space_of_metaspace_is_compared(without_tokenizer, normalised, stated):
    fast = make_tokenizer("llama").backend_tokenizer
    if normalised:  # as in Llama 2
        parts = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        fast.normalizer, fast.pre_tokenizer = normalizers.Sequence(parts), None
    else:
        fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    folder = without_tokenizer("llama", tokenizer__json=json.loads(fast.to_str()))
    change_settings(folder, add_prefix_space=stated)
    if stated:
        load_tokenizer(find_checkpoint(str(folder)))
    else:
        assert "add_prefix_space" in refusal(folder)


@pytest.mark.parametrize("flag", [True, False])
def test_a_first_token_that_tokenizer_json_does_not_add_is_reported(
    family_folder, tmp_path, caplog, flag
):
    folder = shutil.copytree(family_folder("llama"), tmp_path / "copy")
    change_settings(folder, add_bos_token=flag, add_eos_token=not flag)
    texts = tokens_of(folder, "the cat")[0]
    assert texts == ["<s>", "the", "cat"]  # as AutoTokenizer gives them
    reference = AutoTokenizer.from_pretrained(folder)
    assert texts == reference.convert_ids_to_tokens(reference("the cat")["input_ids"])
    warnings = [message for message in caplog.messages if "add_" in message]
    assert [("add_bos_token" in text, "add_eos_token" in text) for text in warnings] == (
        [] if flag else [(True, False), (False, True)]
    )


def test_flags_of_added_tokens_that_contradict_tokenizer_json_are_refused(without_tokenizer):
    spec = json.loads(cased_bert().to_str())
    folder = without_tokenizer("bert", tokenizer__json=spec)
    flags = {"lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    token = {"content": "[MASK]", "special": True} | flags
    change_settings(folder, added_tokens_decoder={"4": token})
    assert "[MASK]" in refusal(folder)
    change_settings(folder, added_tokens_decoder={"4": token | {"lstrip": False}})
    load_tokenizer(find_checkpoint(str(folder)))


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json"])
def test_added_tokens_have_the_ids_that_the_files_give(without_tokenizer, name):
    spec, size = json.loads(cased_bert().to_str()), len(CASED)
    folder = without_tokenizer("bert", tokenizer__json=spec)

    def write(id):
        decoder = {str(id): {"content": "foo", "special": False}}
        contents = {"foo": id} if name.startswith("added") else {"added_tokens_decoder": decoder}
        (folder / name).write_text(json.dumps(contents))

    write(size)
    assert tokens_of(folder, "the foo")[0] == ["[CLS]", "the", "foo", "[SEP]"]
    write(size + 2)
    problem = refusal(folder)
    assert "'foo'" in problem and str(size) in problem and str(size + 2) in problem


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"do_lower_case": False}, "Apple the é"),
        ({"do_lower_case": True}, "apple the e"),
        ({"do_lower_case": True, "strip_accents": False}, "apple the é"),
    ],
)
def test_tokenizer_config_decides_where_there_is_no_tokenizer_json(
    without_tokenizer, settings, expected
):
    folder = without_tokenizer("bert", vocab__txt="\n".join(CASED), tokenizer_config__json=settings)
    assert tokens_of(folder, "Apple The é")[0][1:-1] == (
        ["Apple", "[UNK]", "é"] if expected[0] == "A" else expected.split()
    )


def test_a_cased_vocabulary_is_not_lower_cased_by_default(without_tokenizer):
    folder = without_tokenizer("bert", vocab__txt="\n".join(CASED))
    assert "do_lower_case" in refusal(folder)
    (folder / "vocab.txt").write_text("\n".join(word for word in CASED if word != "Apple"))
    assert tokens_of(folder, "APPLE")[0] == ["[CLS]", "apple", "[SEP]"]


@pytest.mark.parametrize("settings", [{"do_basic_tokenize": False}, {"never_split": ["the"]}])
def test_settings_that_transformers_ignores_are_refused(without_tokenizer, settings):
    settings |= {"do_lower_case": False}
    files = {"vocab__txt": "\n".join(CASED), "tokenizer_config__json": settings}
    assert next(iter(settings)) in refusal(without_tokenizer("bert", **files))


@pytest.mark.parametrize("family", ["gpt2", "roberta", "qwen2"])
def test_a_vocabulary_with_merges_is_converted(without_tokenizer, family):
    spec = json.loads(make_tokenizer("gpt2").backend_tokenizer.to_str())["model"]
    merges = "\n".join(" ".join(merge) for merge in spec["merges"])
    folder = without_tokenizer(family, vocab__json=spec["vocab"], merges__txt=merges)
    texts = encoded(folder, "the cat")
    assert texts == (["<s>", "the", "Ġcat", "</s>"] if family == "roberta" else ["the", "Ġcat"])


def test_random_tokens_are_refused(family_folder, tmp_path):
    folder = shutil.copytree(family_folder("gpt2"), tmp_path / "copy")
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["model"]["dropout"] = 0.5
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    assert "dropout" in refusal(folder)


@pytest.mark.parametrize("fixed", [None, True])
def test_a_warning_about_wrong_tokens_is_logged(without_tokenizer, caplog, fixed):
    words = {f"w{id}": id for id in range(100_001)} | {"<unk>": 100_001}
    fast = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = without_tokenizer("mistral", tokenizer__json=json.loads(fast.to_str()))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "4.40.0"}))
    if fixed:
        change_settings(folder, fix_mistral_regex=True)
    with caplog.at_level(logging.WARNING, "neuroscope"):
        load_tokenizer(find_checkpoint(str(folder)))
    messages = [text for text in caplog.messages if "incorrect tokenization" in text]
    assert len(messages) == (0 if fixed else 1)
    assert all(str(folder) in text for text in messages)
