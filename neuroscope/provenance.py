"""Versions of the libraries and commit of this project, recorded with every result."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("neuroscope", "torch", "transformers", "tokenizers", "numpy", "mlflow", "prefect")


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that are installed."""
    versions = {library: _version(library) for library in _LIBRARIES}
    installed = {library: text for library, text in versions.items() if text is not None}
    return {"python": platform.python_version()} | installed


@cache  # searching the installed packages takes as long as a batch
def _version(library: str) -> str | None:
    """Return the version of a library; None if it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Return this project's commit, with `+changes` if files differ; None outside a checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


@cache  # starting two processes per extraction would be slow
def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return finished.stdout.strip()
