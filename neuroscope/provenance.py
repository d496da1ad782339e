"""Versions of the libraries and commit of this project, recorded with every result."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("neuroscope", "torch", "transformers", "tokenizers", "numpy", "mlflow", "prefect")


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that are installed."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions


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
