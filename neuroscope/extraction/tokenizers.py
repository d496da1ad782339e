"""Loading of a model's tokenizer, and checks that its tokens are those of its files.

A tokenizer.json decides which tokens a model reads. transformers rebuilds the tokenizers of some
classes, such as BertTokenizer, from the vocabulary and the defaults of the class, whatever else the
file says; the generic class that is used here reads the file as it is. tokenizer_config.json may
add tokens, name the special ones, and set `split_special_tokens` and `truncation_side`. Where it
contradicts tokenizer.json and transformers follows it, the model is refused. `add_bos_token` and
`add_eos_token` are ignored beside a tokenizer.json, as transformers ignores them; a warning says so
where they matter.

Without a tokenizer.json, transformers converts vocab.txt, or vocab.json and merges.txt, with the
settings of tokenizer_config.json.

`model_max_length`, and the truncation and padding of tokenizer.json, are settings of training and
have no effect; neither have settings of decoding, such as `clean_up_tokenization_spaces`.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neuroscope.errors import ModelError
from neuroscope.extraction.checkpoints import SAFE, Checkpoint
from neuroscope.extraction.messages import passed_on, warn
from neuroscope.tokens import Vocabulary

_VOCABULARIES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))

_BERT = "cls=[CLS] sep=[SEP] pad=[PAD] unk=[UNK] mask=[MASK]"
_LLAMA = "bos=<s> eos=</s> unk=<unk>"
_SPECIAL_TOKENS = {
    "bert": _BERT,
    "distilbert": _BERT,
    "roberta": f"{_LLAMA} cls=<s> sep=</s> pad=<pad> mask=<mask>",
    "gpt2": "bos=<|endoftext|> eos=<|endoftext|> unk=<|endoftext|>",
    "qwen2": "eos=<|endoftext|> pad=<|endoftext|> unk=<|endoftext|>",
    "llama": _LLAMA,
    "mistral": _LLAMA,
}
"""Special tokens of each family where a model's files name none: the defaults of transformers."""


@dataclass(frozen=True)
class TokenReader:
    """Tokenizer of a model that is not loaded; `tokenise` reads prompts with it as usual."""

    checkpoint: Checkpoint
    tokenizer: Any

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "TokenReader":
        """Load the tokenizer of a model; raise ModelError as in `load_tokenizer`."""
        return cls(checkpoint, load_tokenizer(checkpoint))

    @property
    def name(self) -> str:
        """Name by which the model was found."""
        return self.checkpoint.name

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary of the tokenizer."""
        return vocabulary_of(self.tokenizer)


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Load the tokenizer of a model.

    Raises:
        ModelError: its files are missing, cannot be read, or contradict each other.
    """
    folder = checkpoint.tokenizer_folder or checkpoint.folder
    family = checkpoint.architecture.family
    try:
        if not any(_are_files(folder, names) for names in _VOCABULARIES):
            raise _missing(folder)
        settings = _read_json(folder / "tokenizer_config.json")
        if settings.get("fast_tokenizer_files"):
            raise ModelError(
                f"tokenizer_config.json in {folder} has fast_tokenizer_files, which names other"
                " files than tokenizer.json",
                remedy="remove this entry, and keep the right file as tokenizer.json",
            )
        with passed_on(checkpoint.name):
            if (folder / "tokenizer.json").is_file():
                tokenizer = _from_tokenizer_json(folder, settings, family)
            else:
                tokenizer = _converted(folder, settings)
        _refuse_unfit(folder, settings, tokenizer)
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    except ModelError as error:
        problem = f"model '{checkpoint.name}' cannot be loaded: {error.problem}"
        raise ModelError(problem, remedy=error.remedy) from error
    except Exception as error:  # tokenizers raises Exception itself
        raise ModelError(
            f"model '{checkpoint.name}' cannot be loaded: the tokenizer in {folder} cannot be read"
            f" ({error})"
        ) from error
    return tokenizer


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """Return the vocabulary of a loaded tokenizer; ids without a token have the empty text."""
    ids_of: dict[str, int] = tokenizer.get_vocab()
    texts = [""] * (max(ids_of.values()) + 1)
    for text, id in ids_of.items():
        texts[id] = text
    named = (
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    special = frozenset(
        id for id in (*named, *_framing(tokenizer.backend_tokenizer)) if id is not None
    )
    return Vocabulary(tuple(texts), special, tokenizer.unk_token_id)


def _framing(backend: Any) -> list[int | None]:
    """Return the ids of the tokens that are added to each prompt, and None for its own token."""
    encoding = backend.encode("a")
    flags = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
    return [id if added else None for id, added in flags]


def _are_files(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in names)


def _missing(folder: Path) -> ModelError:
    """Return the error for a folder without a vocabulary."""
    expected = ", nor ".join(" with ".join(names) for names in _VOCABULARIES)
    remedy = "add the files of the tokenizer, which are published with the model"
    if any(folder.glob("*.model")):
        remedy = "convert its *.model to a tokenizer.json, for example with transformers"
    return ModelError(f"the folder {folder} holds no tokenizer: neither {expected}", remedy=remedy)


def _from_tokenizer_json(folder: Path, settings: Mapping[str, Any], family: str) -> Any:
    """Load tokenizer.json as it is, and name the special tokens that the files leave unnamed."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, **SAFE)
    backend = tokenizer.backend_tokenizer
    names = dict(name.split("=") for name in _SPECIAL_TOKENS[family].split())
    if unknown := getattr(backend.model, "unk_token", None):
        names["unk"] = unknown
    for role, token in names.items():
        unnamed = getattr(tokenizer, f"{role}_token") is None
        if unnamed and backend.token_to_id(token) is not None:
            setattr(tokenizer, f"{role}_token", token)
    _warn_of_ignored(folder, settings, tokenizer)
    contradictions = [
        *_contradicted_settings(settings, backend),
        *_contradicted_flags(folder, backend),
    ]
    if contradictions:
        raise ModelError(
            f"tokenizer.json and tokenizer_config.json in {folder} contradict each other:"
            f" {'; '.join(contradictions[:3])}",
            remedy="correct the one that is wrong",
        )
    return tokenizer


def _converted(folder: Path, settings: Mapping[str, Any]) -> Any:
    """Load a tokenizer from vocab.txt, or from vocab.json and merges.txt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE)
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer in {folder} has no tokenizer.json")
    files = [name for key, name in tokenizer.vocab_files_names.items() if key != "tokenizer_file"]
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise ModelError(
            f"the folder {folder} holds no tokenizer: {type(tokenizer).__name__} needs"
            f" {', '.join(missing)}",
            remedy="add the files of the tokenizer, which are published with the model",
        )
    if settings.get("do_basic_tokenize") is False or settings.get("never_split"):
        raise ModelError(
            f"tokenizer_config.json in {folder} sets do_basic_tokenize or never_split, which"
            " transformers ignores",
            remedy="give the model a tokenizer.json",
        )
    _refuse_lowered(folder, settings, tokenizer.backend_tokenizer)
    return tokenizer


def _refuse_lowered(folder: Path, settings: Mapping[str, Any], backend: Any) -> None:
    """Raise ModelError if prompts are lower-cased by default although the vocabulary is cased."""
    if "do_lower_case" in settings or not _behaviour(backend).get("do_lower_case"):
        return
    capitals = [text for text in backend.get_vocab() if text != text.lower() and text[:1] != "["]
    if capitals:
        raise ModelError(
            f"it is unknown whether the tokenizer in {folder} keeps capital letters: its"
            f" vocabulary contains {capitals[0]!r}, but nothing sets do_lower_case",
            remedy='write {"do_lower_case": false} (or true) into tokenizer_config.json',
        )


def _refuse_unfit(folder: Path, settings: Mapping[str, Any], tokenizer: Any) -> None:
    """Raise ModelError if the tokens would be random, or would not have the ids of the files."""
    backend = tokenizer.backend_tokenizer
    if not backend.get_vocab_size(with_added_tokens=False):
        raise ModelError(f"the tokenizer in {folder} has an empty vocabulary")
    if getattr(backend.model, "dropout", None):
        raise ModelError(
            f"tokenizer.json in {folder} sets dropout, which makes tokens random",
            remedy="set it to null",
        )
    decoder = settings.get("added_tokens_decoder") or {}
    ids = {token["content"]: int(id) for id, token in decoder.items()}
    for token, id in (ids | _read_json(folder / "added_tokens.json")).items():
        if backend.token_to_id(token) != id:
            raise ModelError(
                f"the files of the tokenizer in {folder} contradict each other: the id of the added"
                f" token {token!r} is {id} in one and {backend.token_to_id(token)} in another"
            )


def _contradicted_settings(settings: Mapping[str, Any], backend: Any) -> Iterator[str]:
    """Yield settings of tokenizer_config.json that tokenizer.json does not follow."""
    for name, value in _behaviour(backend).items():
        stated = settings.get(name)
        if isinstance(stated, bool) and stated is not value:
            yield f"tokenizer_config.json sets {name} to {stated}, tokenizer.json to {value}"


def _behaviour(backend: Any) -> dict[str, bool]:
    """Return the settings of tokenizer_config.json that correspond to what a tokenizer does."""
    normalise = backend.normalizer.normalize_str if backend.normalizer else str
    if type(backend.model).__name__ == "WordPiece":
        return {
            "do_lower_case": normalise("A") == "a",
            "strip_accents": unicodedata.normalize("NFC", normalise("é")) == "e",
            "tokenize_chinese_chars": normalise("中") != "中",
        }

    def starts_with_space(text: str) -> bool:
        pieces = backend.pre_tokenizer and backend.pre_tokenizer.pre_tokenize_str(normalise(text))
        first = pieces[0][0] if pieces else normalise(text)
        return bool(first) and first[0] in "Ġ▁"

    return {"add_prefix_space": starts_with_space("a")} if starts_with_space(" a") else {}


def _contradicted_flags(folder: Path, backend: Any) -> Iterator[str]:
    """Yield tokens of tokenizer.json to which tokenizer_config.json gives other flags."""
    from tokenizers import AddedToken

    actual = backend.get_added_tokens_decoder()
    for entry in _read_json(folder / "tokenizer.json").get("added_tokens") or ():
        flags = {key: value for key, value in entry.items() if key != "id"}
        if repr(actual.get(entry["id"])) != repr(AddedToken(**flags)):
            yield f"{AddedToken(**flags)!r} is {actual.get(entry['id'])!r}"


def _warn_of_ignored(folder: Path, settings: Mapping[str, Any], tokenizer: Any) -> None:
    """Log a warning if tokenizer.json does not add the tokens that tokenizer_config.json asks for.

    AutoTokenizer, too, ignores `add_bos_token` and `add_eos_token` if there is a tokenizer.json.
    """
    framing = _framing(tokenizer.backend_tokenizer)
    for name, id, added in (
        ("add_bos_token", tokenizer.bos_token_id, framing[:1]),
        ("add_eos_token", tokenizer.eos_token_id, framing[-1:]),
    ):
        value = settings.get(name)
        if id is not None and isinstance(value, bool) and value is not (added == [id]):
            warn(
                str(folder),
                f"tokenizer_config.json sets {name} to {value}, but tokenizer.json does not:"
                " tokenizer.json is followed",
            )


def _read_json(path: Path) -> dict[str, Any]:
    """Return the contents of a JSON file; empty if there is none."""
    contents = json.loads(path.read_bytes()) if path.is_file() else {}
    if not isinstance(contents, dict):
        raise ModelError(f"{path} is not a JSON object")
    return contents
