"""Differences of configurations and tokenizers, of those that count and those that do not."""

import json
import shutil
from pathlib import Path

import pytest
from models import copy_with_config

from neuroscope.errors import ModelError
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.extraction.configuration_differences import compare_configurations
from neuroscope.extraction.tokenizer_differences import TokenizerDifferences, compare_tokenizers


def compared(compare, base, candidate):
    """Return what a function reports about two folders."""
    return compare(*map(find_checkpoint, map(str, (base, candidate))))


@pytest.mark.parametrize(
    ("family", "entries", "keys"),
    [
        ("llama", {"rms_norm_eps": 1e-5, "hidden_act": "gelu"}, ["hidden_act", "rms_norm_eps"]),
        ("llama", {"rope_parameters": None, "rope_theta": 5e5}, ["rope_parameters"]),
        ("llama", {"rope_parameters": None, "rope_theta": 10000.0}, []),
        ("llama", {"attention_dropout": 0.5, "architectures": ["LlamaModel"], "dtype": None}, []),
        ("llama", {"_name_or_path": "elsewhere", "transformers_version": "4.0", "note": "x"}, []),
        ("llama", {"pad_token_id": 5, "eos_token_id": 4, "use_cache": False}, []),
        ("llama", {"mlp_bias": True}, ["mlp_bias"]),
        ("bert", {"layer_norm_eps": 1e-12, "id2label": {"0": "x", "1": "y"}}, []),
        ("roberta", {"pad_token_id": 2}, ["pad_token_id"]),
    ],
)
def test_entries_that_change_values_are_listed(family, entries, keys, family_folder, tmp_path):
    copy = copy_with_config(family_folder(family), tmp_path, **entries)
    differences = compared(compare_configurations, family_folder(family), copy)
    assert [entry.key for entry in differences] == keys
    for entry in differences:
        if entry.key != "rope_parameters":
            assert entry.candidate == entries[entry.key]


def test_a_configuration_that_transformers_cannot_read_is_refused(family_folder, tmp_path):
    copy = copy_with_config(family_folder("llama"), tmp_path, num_attention_heads="four")
    with pytest.raises(ModelError, match=r"config\.json"):
        compared(compare_configurations, family_folder("llama"), copy)


@pytest.fixture
def edited(family_folder, tmp_path):
    """Return a function that compares a model with a copy whose tokenizer.json is edited."""

    def compare(family, change):
        copy = Path(shutil.copytree(family_folder(family), tmp_path / "copy"))
        state = json.loads((copy / "tokenizer.json").read_text())
        change(state)
        (copy / "tokenizer.json").write_text(json.dumps(state))
        return compared(compare_tokenizers, family_folder(family), copy)

    return compare


def test_spacing_padding_and_truncation_of_tokenizer_files_do_not_count(edited):
    def pad(state):
        state["truncation"] = {
            **{"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        }

    assert edited("bert", pad) == TokenizerDifferences()


def test_renumbered_and_removed_tokens_are_counted(edited):
    def change(state):
        ids = state["model"]["vocab"]
        ids["cat"], ids["dog"] = ids["dog"], ids["cat"]
        del ids["?"]

    assert edited("llama", change) == TokenizerDifferences(
        removed=1, renumbered=2, first_removed=("?",)
    )


@pytest.mark.parametrize(
    ("rule", "family", "key", "value"),
    [
        ("normaliser", "bert", "normalizer", {"type": "Lowercase"}),
        ("pre-tokeniser", "bert", "pre_tokenizer", {"type": "WhitespaceSplit"}),
        ("post-processor", "bert", "post_processor", None),
    ],
)
def test_other_rules_are_named(rule, family, key, value, edited):
    assert edited(family, lambda state: state.update({key: value})).rules == (rule,)


def test_other_merges_are_named(edited):
    differences = edited("gpt2", lambda state: state["model"]["merges"].reverse())
    assert differences.rules == ("merges",)


def test_vocabularies_without_tokenizer_json_are_compared(tmp_path, family_folder):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat"]
    for name, added in (("base", []), ("candidate", ["dog"])):
        folder = shutil.copytree(family_folder("bert"), tmp_path / name)
        for file in folder.glob("tokenizer*"):
            file.unlink()
        (folder / "vocab.txt").write_text("\n".join([*tokens, *added]))
    differences = compared(compare_tokenizers, tmp_path / "base", tmp_path / "candidate")
    assert differences == TokenizerDifferences(added=1, first_added=("dog",))


def test_scores_of_unigram_models_are_compared(family_folder, tmp_path):
    for name, score in (("base", -2.0), ("candidate", -1.5)):
        folder = Path(shutil.copytree(family_folder("llama"), tmp_path / name))
        state = json.loads((folder / "tokenizer.json").read_text())
        tokens = sorted(state["model"]["vocab"], key=state["model"]["vocab"].__getitem__)
        scored = [[token, score if token == "cat" else -3.0] for token in tokens]
        state["model"] = {"type": "Unigram", "unk_id": tokens.index("<unk>"), "vocab": scored}
        (folder / "tokenizer.json").write_text(json.dumps(state))
    differences = compared(compare_tokenizers, tmp_path / "base", tmp_path / "candidate")
    assert differences == TokenizerDifferences(rules=("scores",))


@pytest.mark.parametrize(
    ("entries", "rules"),
    [
        ({"split_special_tokens": True}, ("split_special_tokens",)),
        ({"model_max_length": 7, "chat_template": "{{ messages }}"}, ()),
    ],
)
def test_settings_beside_tokenizer_json_are_compared(entries, rules, family_folder, tmp_path):
    copy = Path(shutil.copytree(family_folder("llama"), tmp_path / "copy"))
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    differences = compared(compare_tokenizers, family_folder("llama"), copy)
    assert differences == TokenizerDifferences(rules=rules)


def test_how_added_tokens_match_is_compared(edited):
    def match_words(state):
        for token in state["added_tokens"]:
            token["single_word"] = True

    assert edited("llama", match_words).rules == ("matching of added tokens",)
