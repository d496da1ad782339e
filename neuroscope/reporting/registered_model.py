"""Model registered in MLflow: its versions, their tags, and a claim that one process holds."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.errors import NeuroscopeError
from neuroscope.home import create_home
from neuroscope.reporting.mlflow_client import open_client
from neuroscope.reporting.registry import ModelAddress, Registry, unless_absent
from neuroscope.reporting.run_owner import is_gone, this_process
from neuroscope.reporting.tracking_errors import mlflow_errors
from neuroscope.reporting.tracking_server import tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SETTLE = 1.0  # seconds after which a claim that another process has written is seen
_EXPIRY = timedelta(days=1)
"""Age at which the claim of a process on another machine, which may have died, is ignored."""


@dataclass(frozen=True)
class VersionEntry:
    """Version of a registered model."""

    number: int
    created: datetime
    """Time of the registration, in UTC."""
    tags: Mapping[str, str]


class RegisteredModel:
    """Model registered in MLflow.

    Every method raises TrackingError if MLflow cannot be reached or refuses the request.

    >>> model = RegisteredModel.connect("news")
    >>> base = model.version_with("champion")
    >>> candidates = [entry for entry in model.versions() if entry.number != base]
    """

    def __init__(self, name: str, uri: str, client: "MlflowClient"):
        self.name = name
        self._uri = uri
        self._client = client
        self._registry = Registry(uri, client)

    @classmethod
    def connect(cls, name: str) -> "RegisteredModel":
        """Connect to the registry of `MLFLOW_TRACKING_URI`, or of the embedded database."""
        uri = tracking_uri()
        return cls(name, uri, open_client(uri))

    def version_with(self, alias: str) -> int:
        """Return the number of the version with an alias.

        Raises:
            ModelError: there is no such model or alias.
        """
        return int(self._registry.version(ModelAddress(self.name, alias=alias)).version)

    def versions(self) -> list[VersionEntry]:
        """Return the versions, in ascending order; none if there is no such model."""
        return [
            VersionEntry(
                int(version.version),
                datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
                dict(version.tags),
            )
            for version in self._registry.versions(self.name)
        ]

    def tag(self, number: int, tags: Mapping[str, str | None]) -> bool:
        """Set tags of a version one by one, in the given order; None removes a tag.

        Processes of this machine do so one after another, so their tags do not mix.

        Returns:
            Whether the version still exists.
        """
        from filelock import FileLock

        with FileLock(self._lock("tags")), mlflow_errors(self._uri):
            return unless_absent(lambda: self._tag(number, tags)) is not None

    def _tag(self, number: int, tags: Mapping[str, str | None]) -> bool:
        for key, value in tags.items():
            if value is None:
                self._client.delete_model_version_tag(self.name, str(number), key)
            else:
                self._client.set_model_version_tag(self.name, str(number), key, value)
        return True

    @contextmanager
    def claimed(self, key: str) -> Iterator[str]:
        """Claim the model for a task, such as the check of its versions, while the block runs.

        On this machine a file is locked; for other machines the claim is a tag of the registered
        model. MLflow cannot set a tag only if it is missing: of two processes that set it within
        `_SETTLE` seconds, the later one holds the claim. If the tag of one arrives later than that,
        both do. The claim of a process that has died is ignored: at once on its own machine,
        elsewhere after a day.

        Args:
            key: name of the tag.

        Yields:
            Empty text if this process holds the claim; else the process that does.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self._lock(key))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield self._holder(key) or "another process of this machine"
            return
        with lock:
            lock.release()  # that of `acquire`
            try:
                yield self._claim(key)
            finally:
                with suppress(NeuroscopeError):  # it is ignored once this process has ended
                    self._release(key)

    def _lock(self, task: str) -> Path:
        """Return the lock file of a task that one process of this machine does at a time."""
        identity = sha256(f"{self._uri} {self.name} {task}".encode()).hexdigest()[:16]
        return create_home() / f".claim-{identity}.lock"

    def _claim(self, key: str) -> str:
        """Set the tag of a claim; return the process that holds it, if that is another one."""
        if holder := self._holder(key):
            return holder
        own = f"{this_process()} | {datetime.now(UTC).isoformat(timespec='seconds')}"
        with mlflow_errors(self._uri):
            self._client.set_registered_model_tag(self.name, key, own)
        time.sleep(_SETTLE)
        return self._holder(key)

    def _owner(self, key: str) -> tuple[str, str]:
        """Return the process that a claim names, and since when; empty if there is none."""
        with mlflow_errors(self._uri):
            model = unless_absent(lambda: self._client.get_registered_model(self.name))
        owner, _, since = str(model.tags.get(key, "")).partition(" | ") if model else ("", "", "")
        return owner, since

    def _holder(self, key: str) -> str:
        """Return the other process that holds a claim; empty if there is none."""
        owner, since = self._owner(key)
        if not owner or owner == this_process() or is_gone(owner) or _is_expired(since):
            return ""
        return owner

    def _release(self, key: str) -> None:
        """Remove the tag of a claim if this process holds it."""
        if self._owner(key)[0] != this_process():
            return
        with mlflow_errors(self._uri):
            unless_absent(lambda: self._client.delete_registered_model_tag(self.name, key))


def _is_expired(since: str) -> bool:
    """Return whether a claim is too old, or not one of ours."""
    try:
        return datetime.now(UTC) - datetime.fromisoformat(since) > _EXPIRY
    except (ValueError, TypeError):
        return True
