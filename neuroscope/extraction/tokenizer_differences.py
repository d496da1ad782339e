"""Differences between the tokenizers of two checkpoints that can change tokens."""

import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.tokenizers import load_tokenizer

_NAMED = 10  # added and removed tokens that are named
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")
_FILES = (
    *(*_VOCABULARIES, "merges.txt", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json"),
)
"""Files that decide which tokens a prompt has."""


@dataclass(frozen=True)
class TokenizerDifferences:
    """Differences between two tokenizers; all are 0 or empty if prompts have the same tokens."""

    added: int = 0
    """Number of tokens that only the candidate has."""
    removed: int = 0
    """Number of tokens that only the base has."""
    renumbered: int = 0
    """Number of tokens with other ids."""
    first_added: tuple[str, ...] = ()
    """The first ten added tokens, by id."""
    first_removed: tuple[str, ...] = ()
    """The first ten removed tokens, by id."""
    rules: tuple[str, ...] = ()
    """Rules that differ, such as `normaliser` or `merges`."""

    @property
    def equal(self) -> bool:
        """Whether every prompt has the same tokens."""
        return self == TokenizerDifferences()


def compare_tokenizers(base: Checkpoint, candidate: Checkpoint) -> TokenizerDifferences:
    """Compare two tokenizers by what decides the tokens of a prompt.

    Tokenizers whose files are equal byte by byte are not loaded. Of others, vocabularies and rules
    are compared; padding, truncation and decoding have no effect on tokens.

    Raises:
        ModelError: the files of a tokenizer are missing, cannot be read or contradict each other.
    """
    if _files_are_equal(_folder(base), _folder(candidate)):
        return TokenizerDifferences()
    old, new = load_tokenizer(base), load_tokenizer(candidate)
    before, after = old.get_vocab(), new.get_vocab()
    added = sorted(after.keys() - before.keys(), key=after.__getitem__)
    removed = sorted(before.keys() - after.keys(), key=before.__getitem__)
    shared = before.keys() & after.keys()
    rules, others = _rules(old, shared), _rules(new, shared)
    return TokenizerDifferences(
        added=len(added),
        removed=len(removed),
        renumbered=sum(before[token] != after[token] for token in shared),
        first_added=tuple(added[:_NAMED]),
        first_removed=tuple(removed[:_NAMED]),
        rules=tuple(name for name in rules if rules[name] != others[name]),
    )


def _folder(checkpoint: Checkpoint) -> Path:
    """Return the folder of a checkpoint's tokenizer."""
    return checkpoint.tokenizer_folder or checkpoint.folder


def _files_are_equal(base: Path, candidate: Path) -> bool:
    """Return whether both folders hold a vocabulary, and the same files with the same bytes."""
    names = [name for name in _FILES if (base / name).is_file()]
    if names != [name for name in _FILES if (candidate / name).is_file()]:
        return False
    same = all((base / name).read_bytes() == (candidate / name).read_bytes() for name in names)
    return same and any(name in _VOCABULARIES for name in names)


def _rules(tokenizer: Any, tokens: Container[str]) -> dict[str, Any]:
    """Return what else than the ids decides tokens, by name; of single tokens, that of `tokens`."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    vocabulary = model.pop("vocab", None)
    scored = vocabulary if isinstance(vocabulary, list) else ()  # of a unigram model
    flags = {entry["content"]: entry | {"id": None} for entry in state["added_tokens"]}
    return {
        "normaliser": state["normalizer"],
        "pre-tokeniser": state["pre_tokenizer"],
        "post-processor": state["post_processor"],
        "merges": model.pop("merges", None),
        "scores": {token: score for token, score in scored if token in tokens},
        "model": model,
        "matching of added tokens": {key: flags[key] for key in flags if key in tokens},
        "split_special_tokens": tokenizer.split_special_tokens,
    }
