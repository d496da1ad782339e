"""Models registered in MLflow: from an address such as `models:/news@champion` to its files."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from neuroscope.errors import ModelError
from neuroscope.files import stored_once
from neuroscope.home import home
from neuroscope.reporting.artifacts import ArtifactFolder
from neuroscope.reporting.mlflow_client import open_client
from neuroscope.reporting.recorded import quoted
from neuroscope.reporting.tracking_errors import mlflow_errors
from neuroscope.reporting.tracking_server import tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

T = TypeVar("T")

SCHEME = "models:"
"""Prefix of the addresses of registered models."""

_NEEDED = (".json", ".txt", ".model", ".safetensors")
"""Suffixes of the files that are downloaded: configuration, tokenizer and weights."""
_MAX_NAMES = 10  # most names listed in a message
_PAGE = 1000  # models or versions per request


@dataclass(frozen=True)
class ModelFiles:
    """Files of one version of a registered model, on this machine."""

    version: int
    """Number of the version."""
    folder: Path
    """Folder of config.json and the weights."""
    tokenizer_folder: Path | None
    """Folder of the tokenizer, if it is not `folder`."""


@dataclass(frozen=True)
class ModelAddress:
    """Address of a version of a registered model, by number or by alias.

    >>> ModelAddress.parse("models:/news@champion")
    ModelAddress(name='news', alias='champion', version=None)
    >>> ModelAddress.parse("models:/news/3")
    ModelAddress(name='news', alias='', version=3)
    """

    name: str
    alias: str = ""
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelAddress":
        """Parse an address.

        Raises:
            ModelError: the address is malformed.
        """
        if match := re.fullmatch(r"models:/([^/:]+)/(\d+)", text):
            return cls(match[1], version=int(match[2]))
        if match := re.fullmatch(r"models:/([^/:]+)@([^/:@]+)", text):
            return cls(match[1], alias=match[2])
        raise ModelError(
            f"'{text}' is not the address of a registered model",
            remedy="write models:/name@alias, or models:/name/3 for version 3",
        )


@dataclass(frozen=True)
class _Layout:
    """Layout of a version's files: paths of folders relative to the folder of the version."""

    model: str
    """Folder of the model; empty if it is the folder of the version."""
    tokenizer: str
    """Folder of the tokenizer; empty if it is the folder of the model."""


_MODEL, _TOKENIZER = "model", "components/tokenizer"
"""Folders that `mlflow.transformers.log_model` writes; `save_pretrained` writes only one."""


def find_model_files(address: str) -> ModelFiles:
    """Find the files of a registered model; those behind a server are downloaded once.

    Files on this machine are used in place. Downloads are kept in the home folder, in `models`.

    Args:
        address: address such as `models:/name@alias` or `models:/name/3`.

    Raises:
        ModelError: the address is malformed, there is no such model, alias or version, or the
            version has no files that can be used.
        TrackingError: MLflow cannot be reached or refuses the request.
        ResourceError: the disk is full.
    """
    parsed = ModelAddress.parse(address)
    registry = Registry.connect()
    return registry.files(registry.version(parsed))


class Registry:
    """Registered models of one MLflow server or database."""

    def __init__(self, uri: str, client: "MlflowClient"):
        self._uri = uri
        self._client = client

    @classmethod
    def connect(cls) -> "Registry":
        """Connect to the registry of `MLFLOW_TRACKING_URI`, or of the embedded database.

        Raises:
            TrackingError: the server does not respond, or the database cannot be used.
        """
        uri = tracking_uri()
        return cls(uri, open_client(uri))

    def version(self, address: ModelAddress) -> "ModelVersion":
        """Return the version that an address names.

        Raises:
            ModelError: there is no such model, alias or version.
        """
        model = self._model(address.name)
        number = address.version
        if number is None:
            number = _aliased(model, address.alias)
        with mlflow_errors(self._uri):
            version = unless_absent(lambda: self._client.get_model_version(model.name, str(number)))
        if version is None:
            numbers = [str(version.version) for version in self.versions(model.name)]
            raise ModelError(
                f"the registered model '{model.name}' has no version {number}",
                remedy=_choice(numbers, "register a version first"),
            )
        return version

    def versions(self, name: str) -> "list[ModelVersion]":
        """Return all versions of a registered model, in ascending order."""
        literal = quoted(name)
        filter = f"name = {literal}" if literal else None
        versions: list[ModelVersion] = []
        token = None
        with mlflow_errors(self._uri):
            while True:
                page = self._client.search_model_versions(filter, _PAGE, page_token=token)
                versions += [version for version in page if version.name == name]
                token = page.token
                if not token:
                    return sorted(versions, key=lambda version: int(version.version))

    def files(self, version: "ModelVersion") -> ModelFiles:
        """Return the files of a version; download them unless they are on this machine.

        Raises:
            ModelError: the files are missing, or are not those of a transformers model.
        """
        with mlflow_errors(self._uri):
            uri = self._client.get_model_version_download_uri(version.name, str(version.version))
            stored = ArtifactFolder(uri, self._uri)
            folder = stored.local or self._download(version, stored)
            layout = _layout(ArtifactFolder(str(folder), self._uri), version)
        return ModelFiles(
            int(version.version),
            folder / layout.model,
            folder / layout.tokenizer if layout.tokenizer else None,
        )

    def _download(self, version: "ModelVersion", stored: ArtifactFolder) -> Path:
        """Return a copy of a version's folder; a name that was registered again gets a new copy."""
        identity = f"{self._uri} {version.name} {version.version} {version.creation_timestamp}"
        folder = home() / "models" / sha256(f"{identity} {stored.uri}".encode()).hexdigest()
        if folder.is_dir():
            return folder
        layout = _layout(stored, version)
        parts = [layout.model, layout.tokenizer] if layout.tokenizer else [layout.model]
        files = {
            f"{part}/{name}" if part else name: entry.size
            for part in parts
            for name, entry in stored.entries(part).items()
            if name.endswith(_NEEDED)
        }
        return stored_once(folder, lambda new: stored.download(files, new))

    def _model(self, name: str) -> "RegisteredModel":
        """Return a registered model; raise ModelError if there is none of this name."""
        with mlflow_errors(self._uri):
            model = unless_absent(lambda: self._client.get_registered_model(name))
            names = [] if model else self._model_names()
        if model is None:
            similar = difflib.get_close_matches(name, names, n=_MAX_NAMES)
            raise ModelError(
                f"no model '{name}' is registered in MLflow at {self._uri}",
                remedy=_choice(similar or names, "register a model first"),
            )
        return model

    def _model_names(self) -> list[str]:
        """Return the names of all registered models, sorted."""
        names: list[str] = []
        token = None
        while True:
            page = self._client.search_registered_models(max_results=_PAGE, page_token=token)
            names += [model.name for model in page]
            token = page.token
            if not token:
                return sorted(names)


def _aliased(model: "RegisteredModel", alias: str) -> int:
    """Return the number of the version with an alias; raise ModelError if there is none."""
    if alias not in model.aliases:
        raise ModelError(
            f"the registered model '{model.name}' has no alias '{alias}'",
            remedy=_choice(sorted(model.aliases), f"name a version, as in models:/{model.name}/1"),
        )
    return int(model.aliases[alias])


def _layout(folder: ArtifactFolder, version: "ModelVersion") -> _Layout:
    """Return the layout of a version's files, and check that its weights are safetensors.

    Raises:
        ModelError: there are no files, or they are not those of a transformers model.
    """
    title = f"version {version.version} of the registered model '{version.name}'"
    names = list(folder.entries())
    if not names:
        raise ModelError(
            f"{title} has no files at {folder.uri}",
            remedy="restore the files, or register the model again",
        )
    if "config.json" in names:
        _check_safetensors(names, title)
        return _Layout("", "")
    model_names = list(folder.entries(_MODEL))
    if "config.json" not in model_names:
        raise ModelError(
            f"{title} is not a transformers model: it has neither config.json nor"
            f" {_MODEL}/config.json, only {_listed(names)}",
            remedy="register files written by save_pretrained or mlflow.transformers.log_model",
        )
    _check_safetensors(model_names, title)
    return _Layout(_MODEL, _TOKENIZER if folder.entries(_TOKENIZER) else "")


def _check_safetensors(names: list[str], title: str) -> None:
    """Raise ModelError unless one of the files contains safetensors."""
    if not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{title} cannot be loaded: it has no *.safetensors, only {_listed(names)}; pickled"
            " weights can run code when they are loaded",
            remedy="save the model as safetensors and register it again",
        )


def unless_absent(call: Callable[[], T]) -> T | None:
    """Call a function of MLflow; return None if the requested object does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _choice(names: Sequence[str], otherwise: str) -> str:
    """Return a remedy: to choose one of the names, or another remedy if there are none."""
    return f"choose one of {_listed(names)}" if names else otherwise


def _listed(names: Sequence[str]) -> str:
    """Return the first names as text, with an ellipsis if there are more."""
    more = ", …" if len(names) > _MAX_NAMES else ""
    return f"{', '.join(names[:_MAX_NAMES])}{more}"
