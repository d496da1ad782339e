"""Files that MLflow stores, in a folder on this machine or behind a server."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from neuroscope.errors import ResourceError, TrackingError
from neuroscope.files import size_text, stored_once
from neuroscope.home import home


@dataclass(frozen=True)
class Entry:
    """File or folder in a folder of artifacts."""

    is_folder: bool
    size: int
    """Size in bytes; 0 for a folder."""


@dataclass(frozen=True)
class ArtifactFolder:
    """Folder of artifacts at an address that MLflow understands.

    Methods raise the errors of MLflow and of the system; `mlflow_errors` translates them.
    """

    uri: str
    """Address such as `file:///tmp/x`, `/tmp/x`, `mlflow-artifacts:/1/abc` or `runs:/abc/x`."""
    tracking_uri: str
    """Address of the MLflow server or database."""

    @property
    def local(self) -> Path | None:
        """Path on this machine, which need not exist; None for a folder behind a server."""
        parts = urlsplit(self.uri)
        if parts.scheme == "file":
            return Path(url2pathname(parts.path))
        return None if parts.scheme else Path(self.uri)

    def entries(self, path: str = "") -> dict[str, Entry]:
        """Return the entries of a subfolder by their names; none if it does not exist."""
        if self.local is not None:
            return _local_entries(self.local / path)
        from mlflow.artifacts import list_artifacts

        files = list_artifacts(artifact_uri=self._address(path), tracking_uri=self.tracking_uri)
        return {
            PurePosixPath(file.path).name: Entry(file.is_dir, file.file_size or 0) for file in files
        }

    def find(self, path: str) -> Entry | None:
        """Return the entry at a path below this folder, or None if there is none."""
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or not parts.name:
            return None
        parent = str(parts.parent)
        return self.entries("" if parent == "." else parent).get(parts.name)

    def check(self, path: str, run_id: str) -> None:
        """Raise TrackingError unless there is an entry at a path, which is that of a run."""
        if self.find(path) is None:
            names = list(self.entries())
            raise TrackingError(
                f"run '{run_id}' has no artifact '{path}' in {self.uri}",
                remedy=f"choose from what it has: {', '.join(names)}" if names else "",
            )

    def local_path(self, path: str, run_id: str, *, again: bool) -> Path:
        """Return a path on this machine of an artifact, which is downloaded from a server.

        Args:
            path: path below this folder.
            run_id: id of the run.
            again: whether to download again what was downloaded before.

        Raises:
            TrackingError: there is no such artifact.
            ResourceError: the disk is full.
        """
        self.check(path, run_id)
        if self.local is not None:
            return self.local / path
        key = sha256(f"{self.tracking_uri} {run_id} {path}".encode()).hexdigest()
        copy = stored_once(
            home() / "artifact_copies" / key,
            lambda new: self.download(self.files(path), new),
            again=again,
        )
        return copy / path

    def files(self, path: str) -> dict[str, int]:
        """Return the size in bytes of each file at or below a path, by the path of the file."""
        entry = self.find(path)
        if entry is None:
            return {}
        return dict(self._below(path)) if entry.is_folder else {path: entry.size}

    def download(self, files: Mapping[str, int], destination: Path) -> None:
        """Copy files of this folder to another folder, at the same relative paths.

        Args:
            files: size of each file in bytes, by its path.
            destination: existing, empty folder.

        Raises:
            ResourceError: the disk has less space than the files need.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        remaining = sum(files.values())
        _check_space(destination, remaining)
        for path, size in files.items():
            try:
                download_artifacts(
                    artifact_uri=self._address(path),
                    dst_path=str((destination / path).parent),
                    tracking_uri=self.tracking_uri,
                )
            except MlflowException:  # the exception does not say whether the disk is full
                _check_space(destination, remaining)
                raise
            remaining -= size

    def _below(self, path: str) -> Iterator[tuple[str, int]]:
        """Yield the path and size of each file below a path."""
        for name, entry in self.entries(path).items():
            if entry.is_folder:
                yield from self._below(f"{path}/{name}")
            else:
                yield f"{path}/{name}", entry.size

    def _address(self, path: str) -> str:
        """Return the address of a path below this folder."""
        return f"{self.uri.rstrip('/')}/{path}" if path else self.uri


def _local_entries(folder: Path) -> dict[str, Entry]:
    """Return the entries of a folder on this machine by their names."""
    if not folder.is_dir():
        return {}
    return {
        path.name: Entry(True, 0) if path.is_dir() else Entry(False, path.stat().st_size)
        for path in sorted(folder.iterdir())
    }


def _check_space(folder: Path, needed: int) -> None:
    """Raise ResourceError unless a folder's disk has `needed` bytes of free space."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(
            f"not enough disk space in {folder.parent}: {size_text(needed)} are needed,"
            f" {size_text(free)} are free",
            remedy="free disk space, or set NEUROSCOPE_HOME to a folder on another disk",
        )
